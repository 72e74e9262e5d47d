package config

import (
	"slices"
	"strings"
)

// Role is one part of the program that serve can run.
type Role string

// The roles of serve.
const (
	RoleWebhook   Role = "webhook"   // receives Stripe's events
	RoleWorker    Role = "worker"    // syncs targets from Stripe
	RoleReconcile Role = "reconcile" // sweeps, first copy, repair
	RoleAPI       Role = "api"       // Stripe-compatible API from the mirror
	RoleConsole   Role = "console"   // operator page
	RoleExport    Role = "export"    // keeps a copy for the warehouse
)

// rolesFlag names the flag in problems; roles have no variable.
const rolesFlag = "--roles"

// AllRoles returns every role.
func AllRoles() []Role {
	return []Role{RoleWebhook, RoleWorker, RoleReconcile, RoleAPI, RoleConsole, RoleExport}
}

// DefaultRoles are those of a serve that is given none: all, but export only where
// there is somewhere to export to.
func (c Config) DefaultRoles() []Role {
	roles := AllRoles()
	if !c.ExportURL.IsSet() {
		roles = slices.DeleteFunc(roles, func(r Role) bool { return r == RoleExport })
	}
	return roles
}

// ParseRoles reads a comma separated list as given to --roles. Unknown, doubled
// and empty entries are refused with an [*Error] that lists each of them.
func ParseRoles(list string) ([]Role, error) {
	var roles []Role
	var problems []Problem
	refuse := func(message string) {
		problems = append(problems, Problem{Var: rolesFlag, Message: message})
	}
	known := joinStrings(AllRoles())
	if strings.TrimSpace(list) == "" {
		refuse("names no role; give some of " + known + ", comma separated")
		return nil, asError(problems)
	}
	for name := range strings.SplitSeq(list, ",") {
		role := Role(strings.TrimSpace(name))
		switch {
		case role == "":
			refuse("has an empty entry; remove the extra comma")
		case !slices.Contains(AllRoles(), role):
			message := "knows no role " + quote(string(role)) + "; the roles are " + known
			if near, ok := nearest(string(role), toStrings(AllRoles())); ok {
				message += " (did you mean " + near + "?)"
			}
			refuse(message)
		case slices.Contains(roles, role):
			refuse("names " + string(role) + " twice; remove one")
		default:
			roles = append(roles, role)
		}
	}
	if err := asError(problems); err != nil {
		return nil, err
	}
	return roles, nil
}

// Validate reports, as an [*Error], what the given roles need and c does not
// have. Everything that does not depend on roles has been checked by [Load]; to
// have both reported at once use [LoadFor]. A command that calls Stripe without
// serving, such as backfill, validates for [RoleReconcile].
func (c Config) Validate(roles []Role) error {
	return asError(c.roleProblems(roles, func(Var) bool { return false }))
}

// roleProblems is Validate where some variables are known to be broken: no
// second complaint is made about those.
func (c Config) roleProblems(roles []Role, broken func(Var) bool) []Problem {
	var problems []Problem
	refuse := func(v Var, message string) {
		if !broken(v) {
			problems = append(problems, v.problem(message))
		}
	}
	has := func(r Role) bool { return slices.Contains(roles, r) }
	for _, r := range roles {
		if !slices.Contains(AllRoles(), r) {
			problems = append(problems, Problem{Var: rolesFlag, Message: "knows no role " + quote(string(r))})
		}
	}

	var calling []Role
	for _, r := range []Role{RoleWorker, RoleReconcile} {
		if has(r) {
			calling = append(calling, r)
		}
	}
	if len(calling) > 0 && !c.StripeAPIKey.IsSet() {
		refuse(VarStripeAPIKey, "is required by "+joinStrings(calling)+
			"; set a secret (sk_…) or restricted (rk_…) key, or name its file in STRIPE_API_KEY_FILE")
	}
	if has(RoleWebhook) && len(c.StripeWebhookSecrets) == 0 {
		refuse(VarStripeWebhookSecret, "is required by webhook"+
			"; set the endpoint's whsec_… secret, or name its file in STRIPE_WEBHOOK_SECRET_FILE")
	}
	if has(RoleExport) && !c.ExportURL.IsSet() {
		refuse(VarExportURL, "is required by export; set it to a folder, a bucket or a PostgreSQL, or leave export out of --roles")
	}
	// An embedded Redis lives and dies with its process, so that whoever fills
	// the queue and whoever empties it must be in the same one. Sweeps fill it
	// too: worker and reconcile together are a whole system without webhooks.
	if c.EmbeddedRedis() {
		switch {
		case has(RoleWebhook) && !has(RoleWorker):
			refuse(VarRedisURL, "is embedded in this process, so that no worker could ever take what its webhook role queues"+
				"; give a redis:// URL, or add worker to --roles")
		case has(RoleWorker) && !has(RoleWebhook) && !has(RoleReconcile):
			refuse(VarRedisURL, "is embedded in this process, so that nothing could ever reach its worker role"+
				"; give a redis:// URL, or add webhook or reconcile to --roles")
		}
	}
	return problems
}
