package config

import (
	"errors"
	"fmt"
	"strings"
)

// Problem is one thing that is wrong with the configuration.
type Problem struct {
	// Var is the name of the variable, or "--roles", which is a flag only.
	Var string
	// Flag is the flag of that variable with its dashes, empty for an unknown
	// variable and for "--roles".
	Flag string
	// Message says what is wrong and what to do. It holds no secret.
	Message string
}

// String returns the problem as one line.
func (p Problem) String() string {
	if p.Flag == "" {
		return p.Var + ": " + p.Message
	}
	return p.Var + " (" + p.Flag + "): " + p.Message
}

// Error is everything that is wrong with the configuration. The program exits
// with code 2 on it.
type Error struct {
	// Problems is never empty; problems are in the order of the table of
	// variables, unknown names last.
	Problems []Problem
}

// Error lists the problems, one per line, under a headline.
func (e *Error) Error() string {
	var b strings.Builder
	if n := len(e.Problems); n == 1 {
		b.WriteString("1 problem in the configuration:")
	} else {
		fmt.Fprintf(&b, "%d problems in the configuration:", n)
	}
	for _, p := range e.Problems {
		b.WriteString("\n  " + p.String())
	}
	return b.String()
}

// Join merges the problems of several configuration errors into one [*Error], so
// that a command reports them all at once. It returns nil if every error is nil;
// an error of another kind is kept beside the merged one.
func Join(errs ...error) error {
	var all Error
	var other []error
	for _, err := range errs {
		if err == nil {
			continue
		}
		if e, ok := errors.AsType[*Error](err); ok {
			all.Problems = append(all.Problems, e.Problems...)
		} else {
			other = append(other, err)
		}
	}
	switch {
	case len(all.Problems) == 0:
		return errors.Join(other...)
	case len(other) == 0:
		return &all
	default:
		return errors.Join(append([]error{&all}, other...)...)
	}
}

// asError returns problems as an error, nil if there are none.
func asError(problems []Problem) error {
	if len(problems) == 0 {
		return nil
	}
	return &Error{Problems: problems}
}
