package api

import (
	"context"
	"errors"
	"net/http"
	"regexp"
	"strconv"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/report"
)

// The two operations of this file are not Stripe's: they are for those who copy
// all balances on, or follow what changes. docs/openapi.json describes them.

const (
	bulkLimit    = 100
	maxBulkLimit = 1000
	// maxWait is the longest that a reader of changes may be kept waiting.
	maxWait = 60 * time.Second
	// changesPoll is how often the feed is looked at for a reader who waits.
	changesPoll = 250 * time.Millisecond
)

type balancesPage struct {
	Object  string             `json:"object"`
	URL     string             `json:"url"`
	HasMore bool               `json:"has_more"`
	AsOf    string             `json:"as_of"`
	Data    []customerBalances `json:"data"`
}

// customerBalances has Stripe's signs: in balance negative is credit, in credits
// positive is credit left.
type customerBalances struct {
	Object          string           `json:"object"`
	ID              string           `json:"id"`
	Deleted         bool             `json:"deleted"`
	Balance         map[string]int64 `json:"balance"`
	BalanceSyncedAt *string          `json:"balance_synced_at"`
	BalanceComplete bool             `json:"balance_complete"`
	Credits         map[string]int64 `json:"credits"`
	CreditsSyncedAt *string          `json:"credits_synced_at"`
	CreditsComplete bool             `json:"credits_complete"`
}

func listBalances(ctx context.Context, c *call) (any, error) {
	limit, err := c.query.bulkLimit()
	if err != nil {
		return nil, err
	}
	after := c.query.values[paramAfter]
	if after != "" && !mirror.ValidCustomerID(after) {
		return nil, errMissing(http.StatusBadRequest, nameCustomer, after, paramAfter)
	}
	until, past, err := c.asOf()
	if err != nil {
		return nil, err
	}
	// Columns have microseconds: the last one that counts.
	last := until.Add(-time.Microsecond)
	at := last
	if !past {
		at = time.Time{}
	}
	list, err := c.reader.Balances(ctx, c.account, after, limit+1, at)
	if err != nil {
		return nil, err
	}
	if !past { // of credits nothing counts that is not effective yet
		effective, err := c.reader.Balances(ctx, c.account, after, limit+1, last)
		if err != nil {
			return nil, err
		}
		for i := range list {
			list[i].Credits = effective[i].Credits
		}
	}
	out := balancesPage{Object: "list", URL: "/v1/credits/balances", AsOf: report.AsOf(until).Format(time.RFC3339), Data: []customerBalances{}}
	if len(list) > limit {
		list, out.HasMore = list[:limit], true
	}
	for _, b := range list {
		// What is not wholly held is unknown, which is not zero. The present balance is
		// Stripe's own figure.
		if past && !b.BalanceComplete {
			b.Balance = nil
		}
		if !b.CreditsComplete {
			b.Credits = nil
		}
		out.Data = append(out.Data, customerBalances{
			Object: "creditmirror.customer_balances", ID: b.Customer, Deleted: b.Deleted,
			Balance: b.Balance, BalanceSyncedAt: syncedOrNull(b.BalanceSyncedAt, c.now), BalanceComplete: b.BalanceComplete,
			Credits: b.Credits, CreditsSyncedAt: syncedOrNull(b.CreditsSyncedAt, c.now), CreditsComplete: b.CreditsComplete,
		})
	}
	return out, nil
}

// syncedOrNull leaves out a time that a clock ahead wrote.
func syncedOrNull(t, now time.Time) *string {
	if ahead(t, now) {
		return nil
	}
	return timeOrNull(t)
}

func timeOrNull(t time.Time) *string {
	if t.IsZero() {
		return nil
	}
	s := t.UTC().Format(time.RFC3339Nano)
	return &s
}

// asOf reads as_of: RFC 3339, which includes its second, a date, which means its end in
// UTC, or Unix seconds. past is whether it was given.
func (c *call) asOf() (until time.Time, past bool, err error) {
	s, past := c.query.values["as_of"]
	if !past {
		return report.Now(c.now), false, nil
	}
	if decimal.MatchString(s) {
		n, err := strconv.ParseInt(s, 10, 64)
		if err == nil && n >= 0 && n <= maxUnix {
			return time.Unix(n+1, 0).UTC(), true, nil
		}
	} else if until, err = report.ParseAsOf(s, time.UTC); err == nil {
		return until, true, nil
	}
	return until, true, errInvalid("", "as_of", "Invalid time: %s; give RFC 3339, a date (which means its end), or Unix seconds.", clip(s))
}

type changesPage struct {
	Object  string   `json:"object"`
	URL     string   `json:"url"`
	HasMore bool     `json:"has_more"`
	Next    string   `json:"next"`
	Data    []change `json:"data"`
}

type change struct {
	Object    string `json:"object"`
	Cursor    string `json:"cursor"`
	Table     string `json:"table"`
	Customer  string `json:"customer"`
	ID        string `json:"id"`
	Op        string `json:"op"`
	ChangedAt string `json:"changed_at"`
}

// feedCursor is a cursor of either database. Once a database was put back, its cursors end
// in the name of its history (mirror.MarkPosition).
var feedCursor = regexp.MustCompile(`^[0-9]{1,20}(\.[0-9]{1,20})?(@[0-9A-Za-z_-]{1,64})?$`)

// listChanges answers with the changes after a cursor. Where there are none it
// waits for some, as long as the reader lets it.
func listChanges(ctx context.Context, c *call) (any, error) {
	limit, err := c.query.bulkLimit()
	if err != nil {
		return nil, err
	}
	after := c.query.values["after"]
	unknown := errInvalid("", "after", "No such position in the feed: '%s'. Continue after the next of an earlier reply; 0 is the beginning.", clip(after))
	if after != "" && !feedCursor.MatchString(after) {
		return nil, unknown
	}
	wait := time.Duration(0)
	if s, ok := c.query.values["wait"]; ok {
		if wait, err = maxAge([]string{s}); err != nil || wait > maxWait {
			return nil, errInvalid("", "wait", "Invalid duration: %s; give up to %s, such as 30s, or whole seconds.", clip(s), maxWait)
		}
	}
	deadline := time.Now().Add(wait)
	for {
		list, err := c.reader.Changes(ctx, c.account, after, limit+1)
		switch {
		case errors.Is(err, mirror.ErrNotFound):
			return nil, unknown
		case err != nil:
			return nil, err
		}
		c.follow.note(ctx, c.reader, c.holder, c.account, after, c.now, c.log)
		left := time.Until(deadline)
		if len(list) == 0 && left > 0 {
			select {
			case <-ctx.Done():
				return nil, ctx.Err()
			case <-c.stopping:
				deadline = time.Time{}
			case <-time.After(min(changesPoll, left)):
			}
			continue
		}
		return renderChanges(list, after, limit), nil
	}
}

func renderChanges(list []mirror.Change, after string, limit int) changesPage {
	out := changesPage{Object: "list", URL: "/v1/credits/changes", Next: after, Data: []change{}}
	if out.Next == "" {
		out.Next = "0"
	}
	if len(list) > limit {
		list, out.HasMore = list[:limit], true
	}
	for _, ch := range list {
		out.Next = ch.Cursor
		out.Data = append(out.Data, change{
			Object: "creditmirror.change", Cursor: ch.Cursor, Table: ch.Table, Customer: ch.Customer, ID: ch.ID, Op: ch.Op,
			ChangedAt: ch.ChangedAt.UTC().Format(time.RFC3339Nano),
		})
	}
	return out
}

// bulkLimit is limit with the bounds of these operations.
func (q query) bulkLimit() (int, error) {
	s, ok := q.values[paramLimit]
	if !ok {
		return bulkLimit, nil
	}
	if !decimal.MatchString(s) {
		return 0, errInvalid("parameter_invalid_integer", paramLimit, "Invalid integer: %s", clip(s))
	}
	n, _ := strconv.ParseInt(s, 10, 32) // out of range: the nearest end, refused below
	if n < 1 || n > maxBulkLimit {
		return 0, errInvalid("", paramLimit, "This value must be between 1 and %d.", maxBulkLimit)
	}
	return int(n), nil
}
