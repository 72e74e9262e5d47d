package mirror

import "math"

// Unread is a customer whose history is not complete, and its place in the order
// in which histories are read. The zero value stands before all of them.
type Unread struct {
	Customer string
	// Rank is RankOf of what the first copy stored of the customer; 0 where a sync
	// came first.
	Rank int64
}

// Place is where a list goes on after u: ranks ascend, and customers within one.
func (u Unread) Place() (rank int64, customer string) {
	if u == (Unread{}) {
		return math.MinInt64, ""
	}
	return u.Rank, u.Customer
}

// RankOf orders histories by the largest amount, in minor units and without its
// sign, so that what most is at stake for is proven first: the smaller the rank,
// the sooner. It is no sum and compares no currencies with each other but by their
// figures, which is enough for an order of work. It is never above 0.
func RankOf(amounts ...int64) int64 {
	var rank int64
	for _, a := range amounts {
		rank = min(rank, a, -a) // -math.MinInt64 is itself, which is as small as can be
	}
	return rank
}

// CustomerRank is the rank of a customer's balances.
func CustomerRank(c Customer) int64 {
	rank := RankOf(c.Balance)
	for _, credit := range c.InvoiceCreditBalance {
		rank = min(rank, RankOf(credit))
	}
	return rank
}
