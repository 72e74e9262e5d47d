package mirror

import "slices"

// Ledgers is a choice of the two ledgers of a customer. The zero value is both.
type Ledgers struct {
	// NoBalance and NoCredits leave a ledger out.
	NoBalance, NoCredits bool
}

// Has reports whether the choice includes the ledger of a target of that scope. The
// question who holds a grant is one of billing credits; the one who lives on a test
// clock is of both.
func (l Ledgers) Has(s Scope) bool {
	switch s {
	case ScopeBalance:
		return !l.NoBalance
	case ScopeCredits, ScopeGrantOwner:
		return !l.NoCredits
	}
	return true
}

// Scopes lists the ledgers of the choice.
func (l Ledgers) Scopes() []Scope {
	return slices.DeleteFunc([]Scope{ScopeBalance, ScopeCredits}, func(s Scope) bool { return !l.Has(s) })
}

// Left lists the ledgers that the choice leaves out.
func (l Ledgers) Left() []Scope {
	return slices.DeleteFunc([]Scope{ScopeBalance, ScopeCredits}, l.Has)
}

// Without is the choice less a ledger.
func (l Ledgers) Without(s Scope) Ledgers {
	l.NoBalance = l.NoBalance || s == ScopeBalance
	l.NoCredits = l.NoCredits || s == ScopeCredits
	return l
}

// Of returns those of the targets whose ledgers the choice includes.
func (l Ledgers) Of(targets []Target) []Target {
	if l == (Ledgers{}) {
		return targets
	}
	return slices.DeleteFunc(slices.Clone(targets), func(t Target) bool { return !l.Has(t.Scope) })
}
