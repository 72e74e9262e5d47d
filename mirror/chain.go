package mirror

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"
)

// Link is one transaction as the chain rule sees it: it moves the balance of
// its currency from EndingBalance - Amount to EndingBalance.
type Link struct {
	ID            string
	Amount        int64
	EndingBalance int64
	Created       time.Time
}

// before is the balance that the link starts from. Where 64 bits do not hold it, it is
// the nearest that they do, and ok is false.
func (l Link) before() (balance int64, ok bool) {
	balance = l.EndingBalance - l.Amount
	switch {
	case (balance < l.EndingBalance) == (l.Amount > 0):
		return balance, true
	case l.Amount > 0:
		return math.MinInt64, false
	}
	return math.MaxInt64, false
}

// follows reports whether the link starts from the balance.
func (l Link) follows(balance int64) bool {
	before, ok := l.before()
	return ok && before == balance
}

// BrokenChainError says where a chain does not close.
type BrokenChainError struct {
	// ID is the first transaction that could not be reached; After is the last one
	// that could, empty at the start of the chain.
	ID, After string
	// Have is the balance reached; Want is the one that ID starts from.
	Have, Want int64
	// Beyond reports that ID starts from a balance that no 64 bits hold; Want is then
	// the nearest that they do.
	Beyond bool
}

func (e *BrokenChainError) Error() string {
	if e.Beyond {
		return fmt.Sprintf("chain breaks before %s: it starts from a balance beyond %d, which 64 bits do not hold, the balance is %d", e.ID, e.Want, e.Have)
	}
	return fmt.Sprintf("chain breaks before %s: it starts from %d, the balance is %d", e.ID, e.Want, e.Have)
}

// OrderChain puts the transactions of one currency into the order in which
// every ending balance is the one before plus the amount, from the balance
// start, and returns the balance at the end. Rows of different seconds keep the
// order of their time; rows of one second are in the order that closes, since
// Stripe defines none for them. Where several orders close, rows stay as near to
// the order given (oldest first) as the search finds them. When no order
// closes, the error is a *BrokenChainError and the rows come back by time.
func OrderChain(links []Link, start int64) ([]Link, int64, error) {
	ordered := slices.Clone(links)
	slices.SortStableFunc(ordered, func(a, b Link) int { return a.Created.Compare(b.Created) })
	balance, last := start, ""
	for from := 0; from < len(ordered); {
		to := from + 1
		for to < len(ordered) && ordered[to].Created.Equal(ordered[from].Created) {
			to++
		}
		second := ordered[from:to]
		if !closes(second, balance) {
			path, ok := eulerPath(second, balance)
			if !ok {
				have, after, broken := firstBreak(path, second, balance, last)
				want, ok := broken.before()
				return ordered, balance, &BrokenChainError{ID: broken.ID, After: after, Have: have, Want: want, Beyond: !ok}
			}
			copy(second, path)
		}
		balance, last = second[len(second)-1].EndingBalance, second[len(second)-1].ID
		from = to
	}
	return ordered, balance, nil
}

// closes reports whether the links close in the order they are in.
func closes(links []Link, balance int64) bool {
	for _, l := range links {
		if !l.follows(balance) {
			return false
		}
		balance = l.EndingBalance
	}
	return true
}

// eulerPath finds an order of the links that closes from start: each link is an
// edge from one balance to another, and the order is a path that uses every
// edge once (Hierholzer, linear in the number of links). Without one it returns
// the longest prefix that the search could lay.
func eulerPath(links []Link, start int64) ([]Link, bool) {
	out := make(map[int64][]int, len(links)) // balance → links that start from it, next one last
	for i, l := range slices.Backward(links) {
		if before, ok := l.before(); ok {
			out[before] = append(out[before], i)
		}
	}
	type step struct {
		balance int64
		via     int // the link that led here; -1 at the start
	}
	stack := []step{{start, -1}}
	path := make([]Link, 0, len(links))
	for len(stack) > 0 {
		top := stack[len(stack)-1]
		if next := out[top.balance]; len(next) > 0 {
			i := next[len(next)-1]
			out[top.balance] = next[:len(next)-1]
			stack = append(stack, step{links[i].EndingBalance, i})
			continue
		}
		stack = stack[:len(stack)-1]
		if top.via >= 0 {
			path = append(path, links[top.via])
		}
	}
	slices.Reverse(path)
	return path, len(path) == len(links) && closes(path, start)
}

// firstBreak names the first row that an incomplete path leaves out.
func firstBreak(path, second []Link, balance int64, last string) (have int64, after string, broken Link) {
	laid := make(map[string]bool, len(path))
	for _, l := range path {
		if !l.follows(balance) {
			return balance, last, l
		}
		laid[l.ID] = true
		balance, last = l.EndingBalance, l.ID
	}
	for _, l := range second {
		if !laid[l.ID] {
			return balance, last, l
		}
	}
	return balance, last, second[0]
}

// byTime sorts links by time, then id: the order kept where none closes.
func byTime(links []Link) {
	slices.SortStableFunc(links, func(a, b Link) int {
		return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.ID, b.ID))
	})
}
