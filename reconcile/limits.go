package reconcile

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/stripeapi"
)

// rowLimits is the row of the sweeps' table that keeps what the key may not read of an
// account.
const rowLimits = "limits"

// Part is what of an account a key may be unable to read while it reads the rest.
type Part string

// The parts. The first two are ledgers.
const (
	PartBalance Part = "balance"
	PartCredits Part = "credits"
	PartClocks  Part = "test_clocks"
	PartEvents  Part = "events"
)

// without says what the mirror does without a part.
var without = map[Part]string{
	PartBalance: "customer balances are not mirrored",
	PartCredits: "billing credits are not mirrored; customer balances are",
	PartClocks:  "customers on test clocks are mirrored only once an event names them",
	PartEvents:  "a webhook that is lost is noticed by the balances sweep only",
}

// Limit is a part that the key may not read: a stated limit of the mirror, which goes
// on with the rest.
type Limit struct {
	Account string `json:"-"`
	Part    Part   `json:"part"`
	// Permission is what the key lacks, as Stripe's dashboard names it.
	Permission string `json:"permission"`
	// Without says in words what the mirror does not do.
	Without string    `json:"without"`
	Since   time.Time `json:"since"`
	// Reason is Stripe's answer.
	Reason string `json:"reason"`
}

// Limits are those of an account.
type Limits []Limit

// Has reports whether a part is among them.
func (l Limits) Has(part Part) bool {
	return slices.ContainsFunc(l, func(one Limit) bool { return one.Part == part })
}

// Of returns those of one account.
func (l Limits) Of(account string) Limits {
	return slices.DeleteFunc(slices.Clone(l), func(one Limit) bool { return one.Account != account })
}

// Ledgers are those of the wanted ledgers that the key may read.
func (l Limits) Ledgers(wanted mirror.Ledgers) mirror.Ledgers {
	for _, s := range wanted.Scopes() {
		if l.Has(Part(s)) {
			wanted = wanted.Without(s)
		}
	}
	return wanted
}

// IsLimitsRow reports whether a row of the sweeps' table is one of limits.
func IsLimitsRow(name string) bool { return name == rowLimits }

// ReadLimits reads those of an account.
func ReadLimits(ctx context.Context, store Checkpoints, account string) (Limits, error) {
	row, err := store.Sweep(ctx, account, rowLimits)
	return limitsOf(row), err
}

// AllLimits reads those of all accounts.
func AllLimits(ctx context.Context, store AllCheckpoints) (Limits, error) {
	rows, err := store.Sweeps(ctx)
	var list Limits
	for _, row := range rows {
		if IsLimitsRow(row.Name) {
			list = append(list, limitsOf(row)...)
		}
	}
	return list, err
}

func limitsOf(row mirror.Sweep) Limits {
	var list Limits
	if len(row.State) == 0 || json.Unmarshal(row.State, &list) != nil {
		return nil // none, or another version's
	}
	for i := range list {
		list[i].Account = row.Account
	}
	return list
}

// limiter notes which parts a key may read.
type limiter struct {
	store Checkpoints
	log   *zap.Logger
	now   func() time.Time
	// dry: nothing is written.
	dry bool
}

// refused reports whether err says that the key may not read the part, and notes it
// then; it is logged once.
func (l limiter) refused(ctx context.Context, account string, part Part, err error) (bool, error) {
	permission, ok := stripeapi.Permission(err)
	if !ok {
		return false, nil
	}
	list, row, failed := l.read(ctx, account)
	if failed != nil || list.Has(part) || l.dry {
		return true, failed
	}
	limit := Limit{Account: account, Part: part, Permission: permission, Without: without[part], Since: l.now().UTC(), Reason: err.Error()}
	list = append(list, limit)
	l.tell(limit)
	return true, l.save(ctx, row, list)
}

// tell writes the log line.
func (l limiter) tell(limit Limit) {
	l.log.Warn("stripe key lacks a permission; continuing without it", zap.String("account", limit.Account),
		zap.String("permission", limit.Permission), zap.String("detail", limit.Without), zap.String("error", limit.Reason))
}

// allowed notes that the key may read the part.
func (l limiter) allowed(ctx context.Context, account string, part Part) error {
	list, row, err := l.read(ctx, account)
	if err != nil || !list.Has(part) || l.dry {
		return err
	}
	l.log.Info("stripe key now has a permission that it lacked", zap.String("account", account), zap.String("detail", string(part)))
	return l.save(ctx, row, slices.DeleteFunc(list, func(one Limit) bool { return one.Part == part }))
}

// judge notes what err says of a part, and returns it unless it is that the key may
// not read the part.
func (l limiter) judge(ctx context.Context, account string, part Part, err error) (refused bool, _ error) {
	if err == nil {
		return false, l.allowed(ctx, account, part)
	}
	refused, failed := l.refused(ctx, account, part, err)
	if refused {
		err = nil
	}
	return refused, errors.Join(err, failed)
}

func (l limiter) read(ctx context.Context, account string) (Limits, mirror.Sweep, error) {
	row, err := l.store.Sweep(ctx, account, rowLimits)
	return limitsOf(row), row, err
}

func (l limiter) save(ctx context.Context, row mirror.Sweep, list Limits) (err error) {
	if row.State, err = json.Marshal(list); err != nil {
		return err
	}
	return l.store.SaveSweep(ctx, row)
}
