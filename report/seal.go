package report

import (
	"errors"
	"strconv"
	"strings"
)

// ErrSealed says that the period is sealed already.
var ErrSealed = errors.New("the period is sealed already")

// CauseLate is the cause of a row of which no finding tells.
const CauseLate = "arrived after the period was sealed"

// Explain takes what a finding told: its cause and the amount that it saw, with a unit
// separator between them; empty without a finding.
func (a *Arrival) Explain(found string) {
	a.Cause = CauseLate
	cause, actual, told := strings.Cut(found, "\x1f")
	if !told {
		return
	}
	a.Cause = cause
	if n, err := strconv.ParseInt(actual, 10, 64); err == nil {
		a.Was, a.WasKnown = n, true
	}
}
