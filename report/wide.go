package report

import (
	"errors"
	"fmt"
	"math"
	"math/big"
)

// ErrOverflow says that a figure does not fit 64 bits. A report that would need it
// fails, and names whose it is: a wrong number is worse than none.
var ErrOverflow = errors.New("does not fit 64 bits")

// overflow is the error of a sum of one ledger and currency, of an account or (with k's
// customer) of one customer.
func overflow(k Key, l Ledger, currency string) error {
	of := fmt.Sprintf("account %q", k.Account)
	if k.Customer != "" {
		of += ", customer " + k.Customer
	}
	return fmt.Errorf("the sum of the %s ledger in %s of %s %w", l, currency, of, ErrOverflow)
}

// Wide is a sum that no number of 64-bit amounts overflows: High times 2^32, plus Low,
// which is not negative and below 2^32. Equal sums are equal values.
type Wide struct{ High, Low int64 }

// Of is an amount as a sum.
func Of(amount int64) Wide { return Halves(amount>>32, amount&math.MaxUint32) }

// Halves is the sum of which the upper and the lower 32 bits of all amounts were added up
// apart.
func Halves(high, low int64) Wide { return Wide{high + low>>32, low & math.MaxUint32} }

// OfBig is a number as a sum; it reports false for one that no sum of amounts can be.
func OfBig(n *big.Int) (Wide, bool) {
	if n.IsInt64() {
		return Of(n.Int64()), true
	}
	high := new(big.Int).Rsh(n, 32)
	low := new(big.Int).And(n, big.NewInt(math.MaxUint32))
	return Wide{high.Int64(), low.Int64()}, high.IsInt64()
}

// Add adds an amount.
func (w *Wide) Add(amount int64) { *w = w.Plus(Of(amount)) }

// Plus is the sum of two.
func (w Wide) Plus(o Wide) Wide { return Halves(w.High+o.High, w.Low+o.Low) }

// Minus is the difference of two.
func (w Wide) Minus(o Wide) Wide { return Halves(w.High-o.High, w.Low-o.Low) }

// Amount is the sum, or the nearest number that 64 bits hold; then over is set.
func (w Wide) Amount() (amount int64, over bool) {
	switch {
	case w.High < math.MinInt32:
		return math.MinInt64, true
	case w.High > math.MaxInt32:
		return math.MaxInt64, true
	}
	return w.High<<32 | w.Low, false
}

// Fit is the sum as an amount, or an error that says whose it is and is ErrOverflow.
func (w Wide) Fit(k Key, l Ledger, currency string) (int64, error) {
	amount, over := w.Amount()
	if over {
		return 0, overflow(k, l, currency)
	}
	return amount, nil
}
