package report

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Buckets of an ageing that are no spans of days.
const (
	BucketExpired = "expired_unused"
	BucketLater   = "later"
	BucketNever   = "never"
)

// Age is what is left of the grants of one category that expire within one bucket.
type Age struct {
	Account, Currency, Category, Bucket string
	Amount, Grants                      int64
}

// ParseBuckets reads the ends of buckets, in days.
func ParseBuckets(s string) ([]int, error) {
	var days []int
	for text := range strings.SplitSeq(s, ",") {
		n, err := strconv.Atoi(strings.TrimSpace(text))
		if err != nil || n < 1 || n > 36500 || len(days) > 0 && n <= days[len(days)-1] {
			return nil, fmt.Errorf("%q: want days in rising order, such as 30,60,90", s)
		}
		days = append(days, n)
	}
	return days, nil
}

// bucket is the place and the name of the bucket of a time of expiry. Days are whole
// ones, rounded down, from the last second that counts.
func bucket(days []int, expires, asOf time.Time) (place int, name string) {
	switch {
	case expires.IsZero():
		return len(days) + 2, BucketNever
	case !expires.After(asOf):
		return 0, BucketExpired
	}
	left := int(expires.Sub(asOf) / (24 * time.Hour))
	first := 0
	for i, end := range days {
		if left <= end {
			return i + 1, fmt.Sprintf("%d-%d", first, end)
		}
		first = end + 1
	}
	return len(days) + 1, BucketLater
}

// Ageing reports what is left of billing credits, by when it expires.
func Ageing(ctx context.Context, from Reader, q Query, days []int) ([]Age, Outcome, error) {
	var out Outcome
	type key struct {
		account, currency, category string
		place                       int
	}
	ages := map[key]Age{}
	sums := map[key]Wide{}
	apart := pull(from.Standings(ctx, LedgerCredits, q.Filter))
	defer apart.stop()
	grants := pull(from.Grants(ctx, q.Filter, q.Until))
	defer grants.stop()
	for {
		var k Key
		some := false
		apart.least(&k, &some)
		grants.least(&k, &some)
		if err := errors.Join(apart.err, grants.err); err != nil {
			return nil, out, err
		}
		if !some {
			break
		}
		standing := Standing{Key: k, Complete: true}
		if apart.at(k) {
			standing = apart.head
			apart.step()
		}
		released := standing.Released(q.Until)
		if !released && !standing.Proven() {
			out.unproven(standing, LedgerCredits)
		}
		for g := range grants.of(k) {
			if released || !standing.Proven() || (g.Left == Wide{}) || !g.EffectiveAt.Before(q.Until) {
				continue
			}
			place, name := bucket(days, g.ExpiresAt, AsOf(q.Until))
			k := key{g.Account, g.Currency, g.Category, place}
			ages[k] = Age{Account: g.Account, Currency: g.Currency, Category: g.Category, Bucket: name, Grants: ages[k].Grants + 1}
			sums[k] = sums[k].Plus(g.Left)
		}
	}
	var list []Age
	for _, k := range slices.SortedFunc(maps.Keys(ages), func(a, b key) int {
		return cmp.Or(cmp.Compare(a.account, b.account), cmp.Compare(a.currency, b.currency), cmp.Compare(a.category, b.category), a.place-b.place)
	}) {
		age := ages[k]
		var err error
		if age.Amount, err = sums[k].Fit(Key{Account: k.account}, LedgerCredits, k.currency); err != nil {
			return nil, out, err
		}
		list = append(list, age)
	}
	return list, out, nil
}
