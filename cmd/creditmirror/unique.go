package main

import (
	"slices"

	"go.uber.org/zap/zapcore"
)

// unique writes no key twice in a line: of fields with one name the last one counts.
// Readers of JSON disagree about such lines, and some refuse them.
type unique struct {
	zapcore.Core
	context []zapcore.Field
	taken   []string // the encoder's own keys
}

// With keeps the fields, which the encoder would write before it knows of others.
func (u unique) With(fields []zapcore.Field) zapcore.Core {
	u.context = append(slices.Clip(u.context), fields...)
	return u
}

// Check puts this core before the one that it wraps.
func (u unique) Check(entry zapcore.Entry, checked *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if u.Enabled(entry.Level) {
		return checked.AddCore(entry, u)
	}
	return checked
}

// Write leaves out what a later field says again.
func (u unique) Write(entry zapcore.Entry, fields []zapcore.Field) error {
	all := append(slices.Clip(u.context), fields...)
	seen := make(map[string]bool, len(all)+len(u.taken))
	for _, key := range u.taken {
		seen[key] = true
	}
	kept := make([]zapcore.Field, 0, len(all))
	for _, f := range slices.Backward(all) {
		keys := keysOf(f)
		if len(keys) == 1 && seen[keys[0]] {
			continue
		}
		if slices.ContainsFunc(keys, func(k string) bool { return seen[k] }) {
			// An object whose keys stand in the line itself, some of them taken.
			enc := zapcore.NewMapObjectEncoder()
			f.AddTo(enc)
			for _, k := range keys {
				if !seen[k] {
					kept = append(kept, zapcore.Field{Key: k, Type: zapcore.ReflectType, Interface: enc.Fields[k]})
				}
			}
		} else {
			kept = append(kept, f)
		}
		for _, k := range keys {
			seen[k] = true
		}
	}
	slices.Reverse(kept)
	return u.Core.Write(entry, kept)
}

// keysOf lists the keys that a field writes into the line.
func keysOf(f zapcore.Field) []string {
	switch f.Type {
	case zapcore.SkipType:
		return nil
	case zapcore.InlineMarshalerType:
		enc := zapcore.NewMapObjectEncoder()
		f.AddTo(enc)
		keys := make([]string, 0, len(enc.Fields))
		for k := range enc.Fields {
			keys = append(keys, k)
		}
		slices.Sort(keys)
		return keys
	}
	return []string{f.Key}
}
