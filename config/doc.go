// Package config turns the environment and the command line into one checked
// [Config].
//
// It is strict and complete: an unknown CREDITMIRROR_* name, a malformed value
// and a contradiction are all errors, and all of them are reported at once in
// one [*Error], each naming its variable and flag and saying what to do. It is
// silent about secrets: they are of type [Secret], which cannot be printed, and
// no error text quotes one, nor any part of a URL or the path of a secret file
// (a secret pasted into the wrong variable must not end up in a log either).
//
// The table behind [Vars] is the only place where a variable is described;
// loading, flags, --help and the list of effective settings all read it. A
// general struct-tag loader is not used, because those quote the offending
// value in their errors and do not notice unknown names.
//
// A command uses it in two steps:
//
//	o := config.Bind(cmd.Flags(), config.VarDatabaseURL, config.VarLogLevel) // when built
//	cfg, err := config.Load(os.Environ(), o)                                  // when run
//
// and serve, whose roles decide what is required, in three:
//
//	roles, rolesErr := config.ParseRoles(flagRoles)
//	cfg, loadErr := config.LoadFor(os.Environ(), roles, o)
//	if err := config.Join(rolesErr, loadErr); err != nil { … exit code 2 … }
//
// A flag takes precedence over the environment. The package imports nothing of this module.
package config
