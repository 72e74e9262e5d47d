//go:build unix

package e2e

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/creditmirror/creditmirror/app"
	"github.com/creditmirror/creditmirror/config"
	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/verify"
)

// watch looks at the database while a test runs, at committed states only, for
// what must never be seen there.
type watch struct {
	w    *world
	stop context.CancelFunc
	done chan struct{}

	mu    sync.Mutex
	rows  map[string]string  // balance transaction → its immutable fields
	seen  map[string]applied // target → the newest commit seen
	looks int
}

// applied is what a commit leaves of itself.
type applied struct {
	epoch    int64
	observed time.Time
}

const (
	watchInterval = 200 * time.Millisecond
	// rowsEvery: all rows are read at every such look only.
	rowsEvery = 5
)

func newWatch(w *world) *watch {
	ctx, cancel := context.WithCancel(context.Background())
	v := &watch{w: w, stop: cancel, done: make(chan struct{}), rows: map[string]string{}, seen: map[string]applied{}}
	w.tables()
	go func() {
		defer close(v.done)
		pause := watchInterval
		for n := 0; ; n++ {
			select {
			case <-ctx.Done():
				return
			case <-time.After(pause):
			}
			began := time.Now()
			// The database may be down, by the test's will.
			if err := v.look(ctx, n%rowsEvery == 0); err == nil {
				v.mu.Lock()
				v.looks++
				v.mu.Unlock()
			}
			// Looking must not cost more than a tenth of the machine.
			pause = max(watchInterval, 9*time.Since(began))
		}
	}()
	return v
}

// count returns how often the database was looked at.
func (v *watch) count() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.looks
}

// end stops looking and looks a last time.
func (v *watch) end() {
	v.w.tb.Helper()
	v.stop()
	<-v.done
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := v.look(ctx, true); err != nil {
		v.w.tb.Errorf("look at the database: %v", err)
	}
	if err := v.prove(ctx); err != nil {
		v.w.tb.Errorf("prove the mirror: %v", err)
	}
}

// prove runs verify: whatever went wrong around a mirror, its ledgers close and
// every column says what the JSON beside it says.
func (v *watch) prove(ctx context.Context) (err error) {
	cfg, err := config.Load(v.w.environ(nil))
	if err != nil {
		return err
	}
	store, err := app.OpenStore(ctx, cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	auditor, ok := store.(mirror.Auditor)
	if !ok {
		return errors.New("the store is no auditor")
	}
	_, err = verify.Run(ctx, auditor, verify.Options{}, func(f mirror.Finding) error {
		v.w.tb.Errorf("I1, I2: verify finds %s of account %q, customer %s, %s: %s", f.Kind, f.Account, f.Customer, f.Object, f.Cause)
		return nil
	})
	return err
}

func (v *watch) look(ctx context.Context, rows bool) error {
	if err := v.chains(ctx); err != nil {
		return err
	}
	if err := v.epochs(ctx); err != nil {
		return err
	}
	if !rows {
		return nil
	}
	return v.history(ctx)
}

// Of histories that are complete and not open to doubt, I2 demands that every
// link closes and that the newest one ends at the customer's balance. Each
// statement sees one committed state.
const (
	brokenLinks = `
SELECT account, customer, id FROM (
	SELECT t.account, t.customer, t.id, t.chain_position, t.ending_balance - t.amount AS starts,
		lag(t.ending_balance, 1, CAST(0 AS bigint)) OVER (PARTITION BY t.account, t.customer, t.currency ORDER BY t.chain_position) AS ended
	FROM schema.customer_balance_transactions t
	JOIN schema.sync_state s ON s.account = t.account AND s.customer = t.customer AND s.scope = 'balance'
	WHERE s.history_complete AND NOT s.disproved
) links WHERE chain_position IS NULL OR starts <> ended`
	wrongBalances = `
SELECT c.account, c.id, t.id FROM schema.customers c
JOIN schema.sync_state s ON s.account = c.account AND s.customer = c.id AND s.scope = 'balance'
JOIN schema.customer_balance_transactions t ON t.account = c.account AND t.customer = c.id AND t.currency = c.currency
WHERE s.history_complete AND NOT s.disproved AND NOT c.deleted AND c.balance <> t.ending_balance
	AND t.chain_position = (SELECT max(m.chain_position) FROM schema.customer_balance_transactions m
		WHERE m.account = t.account AND m.customer = t.customer AND m.currency = t.currency)`
)

func (v *watch) chains(ctx context.Context) error {
	for what, query := range map[string]string{
		"I2: the chain is open": brokenLinks, "I2: the balance is not where the chain ends": wrongBalances,
	} {
		list, err := v.texts(ctx, query, 3)
		if err != nil {
			return err
		}
		for _, l := range list {
			v.w.tb.Errorf("%s: account %q, customer %s, at %s", what, l[0], l[1], l[2])
		}
	}
	return nil
}

// epochs asserts I4: commits of a target have rising epochs, and none replaces
// what was read after it.
func (v *watch) epochs(ctx context.Context) error {
	rows, err := v.w.db.QueryContext(ctx, v.w.sql(
		`SELECT account, customer, scope, epoch, applied_epoch, observed_at FROM schema.sync_state WHERE applied_epoch > 0`))
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }()
	v.mu.Lock()
	defer v.mu.Unlock()
	for rows.Next() {
		var account, customer, scope string
		var epoch int64
		var observed any
		var now applied
		if err := rows.Scan(&account, &customer, &scope, &epoch, &now.epoch, &observed); err != nil {
			return err
		}
		now.observed = moment(observed)
		target := scope + ":" + account + ":" + customer
		last := v.seen[target]
		switch {
		case now.epoch > epoch:
			v.w.tb.Errorf("I4: %s: epoch %d was applied before it was given out (%d)", target, now.epoch, epoch)
		case now.epoch < last.epoch, now.observed.Before(last.observed):
			v.w.tb.Errorf("I4: %s went back from %+v to %+v", target, last, now)
		}
		v.seen[target] = now
	}
	return rows.Err()
}

func moment(v any) time.Time {
	switch v := v.(type) {
	case time.Time:
		return v
	case string:
		t, err := time.Parse(time.RFC3339Nano, v)
		if err == nil {
			return t
		}
	}
	return time.Time{}
}

// history asserts I5: rows stay, and their immutable fields too.
func (v *watch) history(ctx context.Context) error {
	list, err := v.texts(ctx, `SELECT account, customer, id, type, currency, CAST(amount AS text), CAST(ending_balance AS text), CAST(created AS text)
FROM schema.customer_balance_transactions
UNION ALL SELECT account, customer, id, type, currency, CAST(amount AS text), "grant", CAST(created AS text)
FROM schema.credit_balance_transactions`, 8)
	if err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	here := make(map[string]bool, len(list))
	for _, l := range list {
		id, fields := l[0]+" "+l[2], fmt.Sprint(l)
		here[id] = true
		if old, ok := v.rows[id]; ok && old != fields {
			v.w.tb.Errorf("I5: %s was %s and is %s", id, old, fields)
		}
		v.rows[id] = fields
	}
	for id, fields := range v.rows {
		if !here[id] {
			v.w.tb.Errorf("I5: %s is gone", fields)
		}
	}
	return nil
}

func (v *watch) texts(ctx context.Context, query string, columns int) ([][]string, error) {
	rows, err := v.w.db.QueryContext(ctx, v.w.sql(query))
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	var list [][]string
	for rows.Next() {
		row := make([]string, columns)
		into := make([]any, columns)
		for i := range row {
			into[i] = &row[i]
		}
		if err := rows.Scan(into...); err != nil {
			return nil, err
		}
		list = append(list, row)
	}
	return list, rows.Err()
}

// keepsNoStrayKeys asserts I8 on a real Redis: what is dirty waits or is leased,
// what waits or is leased is dirty, and nothing does both.
func (w *world) keepsNoStrayKeys() {
	w.tb.Helper()
	if w.redis == nil {
		return
	}
	rdb := w.rdb()
	defer func() { _ = rdb.Close() }()
	look := redis.NewScript(`return {redis.call('HKEYS', KEYS[1]), redis.call('ZRANGE', KEYS[2], 0, -1),
	redis.call('ZRANGE', KEYS[3], 0, -1), redis.call('ZRANGE', KEYS[4], 0, -1)}`)
	// A lost key is put back by the repair, which runs every 15 s.
	eventually(w.tb, 20*time.Second, "I8: generations and places in the queue agree", func() error {
		v, err := look.Run(context.Background(), rdb, []string{"{cm:0}:gen", "{cm:0}:ready:live", "{cm:0}:ready:sweep", "{cm:0}:lease"}).Slice()
		if err != nil {
			return err
		}
		var dirty, placed []string
		for i, list := range v {
			for _, key := range list.([]any) {
				if i == 0 {
					dirty = append(dirty, key.(string))
				} else {
					placed = append(placed, key.(string))
				}
			}
		}
		slices.Sort(dirty)
		slices.Sort(placed)
		if !slices.Equal(dirty, placed) {
			return fmt.Errorf("dirty %v, in the queue %v", dirty, placed)
		}
		return nil
	})
}

// rdb is a client of our own to the redis-server.
func (w *world) rdb() *redis.Client {
	return redis.NewClient(&redis.Options{Addr: w.redis.Addr, DisableIdentity: true})
}
