package config

import (
	"maps"

	"github.com/spf13/pflag"
)

// Overrides is what was given by flags. It wins over the environment.
type Overrides struct {
	values  map[Var]string
	files   map[Var]string
	refused map[Var]string // secrets that were given by flags all the same
	unknown []Var
	bound   []Var
}

// Bind registers the flags of the given variables on fs and returns where their
// values will be found once fs is parsed, to be passed to [Load]. A secret has a flag
// that ends in -file and names a file to read it from, because what stands on a
// command line can be seen by every process of the machine. URLs that may hold a
// password have both.
//
// Flags take any text and it is Load that judges it: an error of the flag
// parser itself would come alone, and would quote a secret.
func Bind(fs *pflag.FlagSet, vars ...Var) *Overrides {
	o := &Overrides{values: map[Var]string{}, files: map[Var]string{}, refused: map[Var]string{}}
	for _, v := range vars {
		s, ok := lookup(v)
		if !ok { // reported by Load, as any other wrong name
			o.unknown = append(o.unknown, v)
			continue
		}
		o.bound = append(o.bound, v)
		name := v.flagName()
		if v.hidden() {
			// Known so that whoever gives it learns what to do, and not that there is none.
			fs.VarPF(&flagValue{into: o.refused, spec: s, kind: s.kind}, name, "", "").Hidden = true
			fs.Var(&flagValue{into: o.files, spec: s, kind: "path"}, name+fileFlag, "file holding the "+s.Help+" [$"+string(v)+fileSuffix+"]")
			continue
		}
		help := s.Help
		if s.Secret {
			help += "; not one with a password"
		}
		f := fs.VarPF(&flagValue{into: o.values, spec: s, kind: s.kind}, name, "", help+" [$"+string(v)+"]")
		f.DefValue = s.Default
		if s.kind == "bool" {
			f.NoOptDefVal = "true"
		}
		if s.Secret {
			fs.Var(&flagValue{into: o.files, spec: s, kind: "path"}, name+fileFlag, "file holding what --"+name+" takes [$"+string(v)+fileSuffix+"]")
		}
	}
	return o
}

// merge returns all overrides as one, later ones winning.
func merge(list []*Overrides) Overrides {
	all := Overrides{values: map[Var]string{}, files: map[Var]string{}, refused: map[Var]string{}}
	for _, o := range list {
		if o == nil {
			continue
		}
		maps.Copy(all.values, o.values)
		maps.Copy(all.files, o.files)
		maps.Copy(all.refused, o.refused)
		all.unknown = append(all.unknown, o.unknown...)
	}
	return all
}

// flagValue keeps the text of one flag. It implements pflag.Value.
type flagValue struct {
	into map[Var]string
	spec Spec
	kind string
}

// Set keeps the text as it is.
func (f *flagValue) Set(text string) error {
	f.into[f.spec.Var] = text
	return nil
}

// String returns the text that was given, except a secret's.
func (f *flagValue) String() string {
	if f == nil || f.into == nil { // pflag may ask a zero value for its default
		return ""
	}
	text, ok := f.into[f.spec.Var]
	if ok && f.spec.Secret && text != "" {
		return redacted
	}
	return text
}

// Type returns the kind of value, as shown by --help.
func (f *flagValue) Type() string { return f.kind }
