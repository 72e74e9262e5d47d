package stripesim

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"
	"unicode"
)

func (s *Switches) fill() error {
	if s.DefaultCurrency == "" {
		s.DefaultCurrency = "usd"
	}
	var errs []error
	if !isCurrency(s.DefaultCurrency) {
		errs = append(errs, fmt.Errorf("switches: default currency %q is not one", s.DefaultCurrency))
	}
	switch s.SameSecondOrder {
	case OrderRandom, OrderAscending, OrderDescending:
	default:
		errs = append(errs, fmt.Errorf("switches: unknown order %q", s.SameSecondOrder))
	}
	if s.ExpiryDelay < 0 || s.RetryAfter < 0 || s.ClockAdvanceTime < 0 {
		errs = append(errs, errors.New("switches: negative duration"))
	}
	return errors.Join(errs...)
}

// snake turns a field's name into the one that JSON and the command line use.
func snake(name string) string {
	var b strings.Builder
	for i, r := range name {
		if unicode.IsUpper(r) && i > 0 {
			b.WriteByte('_')
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}

// SwitchNames are the names that Set takes, in the order of the fields.
func SwitchNames() []string {
	t := reflect.TypeFor[Switches]()
	out := make([]string, t.NumField())
	for i := range out {
		out[i] = snake(t.Field(i).Name)
	}
	return out
}

// Set sets the switch of that name from text: true or false, a duration such as
// "2s", or a word.
func (s *Switches) Set(name, value string) error {
	v := reflect.ValueOf(s).Elem()
	for i := range v.NumField() {
		if snake(v.Type().Field(i).Name) != name {
			continue
		}
		switch f := v.Field(i); f.Interface().(type) {
		case bool:
			b, err := strconv.ParseBool(value)
			if err != nil {
				return fmt.Errorf("switch %s: %q is not true or false", name, value)
			}
			f.SetBool(b)
		case time.Duration:
			d, err := time.ParseDuration(value)
			if err != nil {
				return fmt.Errorf("switch %s: %w", name, err)
			}
			f.SetInt(int64(d))
		default:
			if value == "random" { // the zero value has a name, too
				value = ""
			}
			f.SetString(value)
		}
		return nil
	}
	return fmt.Errorf("unknown switch %q; there are %s", name, strings.Join(SwitchNames(), ", "))
}

// MarshalJSON writes the switches by the names that Set takes.
func (s Switches) MarshalJSON() ([]byte, error) {
	v := reflect.ValueOf(s)
	m := make(map[string]any, v.NumField())
	for i := range v.NumField() {
		x := v.Field(i).Interface()
		if d, ok := x.(time.Duration); ok {
			x = d.String()
		}
		m[snake(v.Type().Field(i).Name)] = x
	}
	return json.Marshal(m)
}

// UnmarshalJSON sets the switches that are named and leaves the others alone.
func (s *Switches) UnmarshalJSON(b []byte) error {
	var m map[string]any
	if err := json.Unmarshal(b, &m); err != nil {
		return err
	}
	for name, v := range m {
		if err := s.Set(name, fmt.Sprint(v)); err != nil {
			return err
		}
	}
	return nil
}
