// Package access holds the API keys of this program and judges what each may do. The
// API and the console ask it the same questions.
package access

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"math"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// Ledger is one of Stripe's two ledgers of credit.
type Ledger string

// The ledgers.
const (
	Balance Ledger = "balance"
	Credits Ledger = "credits"
)

// Ledgers lists them.
func Ledgers() []Ledger { return []Ledger{Balance, Credits} }

// Operation is something that changes a ledger at Stripe, or the mirror itself.
type Operation string

// The operations.
const (
	Adjust Operation = "adjust" // makes a customer balance transaction
	Edit   Operation = "edit"   // changes a transaction's description and metadata, or a grant
	Grant  Operation = "grant"  // makes a credit grant
	Expire Operation = "expire" // expires a credit grant
	Void   Operation = "void"   // voids a credit grant
	// Operate changes nothing at Stripe: it allows the actions of the console.
	Operate Operation = "operate"
)

// Operations lists them.
func Operations() []Operation { return []Operation{Adjust, Edit, Grant, Expire, Void, Operate} }

// Key is one key and what it may do. A field of zero does not limit it.
type Key struct {
	// Name stands for the key in logs, records and reports.
	Name string
	// Digest is the SHA-256 of what callers present. The zero value matches nothing.
	Digest [sha256.Size]byte
	// Write allows what changes something at Stripe; every key may read.
	Write bool
	// Accounts are the connected accounts that it sees, the empty string for the
	// platform's own; nil: all.
	Accounts   []string
	Ledgers    []Ledger
	Operations []Operation
	// RPS bounds the requests per second of one process; up to a second's worth may
	// come at once.
	RPS float64
	// MaxAmount bounds the absolute amount of one write per currency, and MaxPerDay
	// those of a UTC day together. Where one is not nil, a currency that it does not
	// name may not be written.
	MaxAmount, MaxPerDay map[string]int64
	// MaxAge is the Creditmirror-Max-Age of requests without one; nil: none.
	MaxAge *time.Duration
	// Expires is when it stops working; the zero time: never.
	Expires time.Time
}

// DigestOf returns the digest of a key.
func DigestOf(secret string) [sha256.Size]byte { return sha256.Sum256([]byte(secret)) }

// Why a key is not accepted.
var (
	ErrUnknown = errors.New("unknown key")
	ErrExpired = errors.New("expired key")
)

// Keys are all keys of a process. Make it with New; it is safe for concurrent use.
type Keys struct {
	list []*Holder
	now  func() time.Time
}

// Holder is who presented a key: the key, and what this process counts of it.
type Holder struct {
	Key
	limiter *rate.Limiter // nil: no limit
	used    atomic.Int64  // unix microseconds of the last use; 0: none
	told    atomic.Int64  // those that Uses has returned
}

// New returns the keys. now defaults to time.Now.
func New(keys []Key, now func() time.Time) *Keys {
	if now == nil {
		now = time.Now
	}
	k := &Keys{now: now}
	for _, key := range keys {
		h := &Holder{Key: key}
		if key.RPS > 0 {
			h.limiter = rate.NewLimiter(rate.Limit(key.RPS), int(math.Ceil(key.RPS)))
		}
		k.list = append(k.list, h)
	}
	return k
}

// None reports whether there are no keys, so that callers need none. It is true of nil.
func (k *Keys) None() bool { return k == nil || len(k.list) == 0 }

// CanWrite reports whether any key may write.
func (k *Keys) CanWrite() bool {
	return k != nil && slices.ContainsFunc(k.list, func(h *Holder) bool { return h.Write })
}

// All lists the keys in their order.
func (k *Keys) All() []Key {
	if k == nil {
		return nil
	}
	list := make([]Key, len(k.list))
	for i, h := range k.list {
		list[i] = h.Key
	}
	return list
}

// Find returns who holds the presented key. It compares digests, which are all of one
// length, with every key, whether one has matched or not. With ErrExpired the holder is
// returned too.
func (k *Keys) Find(presented string) (*Holder, error) {
	if k.None() {
		return nil, ErrUnknown
	}
	digest, found := DigestOf(presented), -1
	for i, h := range k.list {
		found = subtle.ConstantTimeSelect(subtle.ConstantTimeCompare(digest[:], h.Digest[:]), i, found)
	}
	if found < 0 {
		return nil, ErrUnknown
	}
	h, now := k.list[found], k.now()
	if !h.Expires.IsZero() && !now.Before(h.Expires) {
		return h, ErrExpired
	}
	h.used.Store(now.UnixMicro())
	return h, nil
}

// Named returns who holds the key of a name, without a look at what was presented, for
// somebody whose key was found before. With ErrExpired the holder is returned too.
func (k *Keys) Named(name string) (*Holder, error) {
	if k.None() {
		return nil, ErrUnknown
	}
	now := k.now()
	for _, h := range k.list {
		if h.Name != name {
			continue
		}
		if !h.Expires.IsZero() && !now.Before(h.Expires) {
			return h, ErrExpired
		}
		h.used.Store(now.UnixMicro())
		return h, nil
	}
	return nil, ErrUnknown
}

// Use is when a key was last accepted.
type Use struct {
	Name string
	At   time.Time
}

// Uses returns the keys that were accepted since it was last asked. Tell them again with
// Untold where they could not be kept.
func (k *Keys) Uses() []Use {
	var list []Use
	if k == nil {
		return nil
	}
	for _, h := range k.list {
		if at := h.used.Load(); at != h.told.Swap(at) {
			list = append(list, Use{Name: h.Name, At: time.UnixMicro(at).UTC()})
		}
	}
	return list
}

// Untold has Uses return what it has returned once more.
func (k *Keys) Untold() {
	for _, h := range k.list {
		h.told.Store(0)
	}
}

// Allow reports whether the key's limit of requests allows one more.
func (h *Holder) Allow() bool { return h.limiter == nil || h.limiter.Allow() }

// RetryAfter returns after how many seconds Allow will be true again.
func (h *Holder) RetryAfter() float64 {
	if h.limiter == nil {
		return 0
	}
	return max(1, math.Ceil((1-h.limiter.Tokens())/float64(h.limiter.Limit())))
}

// Bond is what a key is, for who must notice that one of the same name is another. It
// reveals nothing of what callers present.
func (k Key) Bond() string {
	sum := sha256.Sum256(append([]byte("bond of "), k.Digest[:]...))
	return hex.EncodeToString(sum[:])
}

// MaySee reports whether the key may see an account.
func (k Key) MaySee(account string) bool {
	return k.Accounts == nil || slices.Contains(k.Accounts, account)
}

// MayRead reports whether the key may see a ledger.
func (k Key) MayRead(l Ledger) bool { return k.Ledgers == nil || slices.Contains(k.Ledgers, l) }

// MayReadAll reports whether it may see both.
func (k Key) MayReadAll() bool { return k.MayRead(Balance) && k.MayRead(Credits) }

// MayDo reports whether the key may do an operation.
func (k Key) MayDo(o Operation) bool {
	return k.Write && (k.Operations == nil || slices.Contains(k.Operations, o))
}

// Bounded reports whether amounts are.
func (k Key) Bounded() bool { return k.MaxAmount != nil || k.MaxPerDay != nil }

// MayWrite reports whether one write may have this amount.
func (k Key) MayWrite(currency string, amount int64) bool {
	within := func(limits map[string]int64) bool {
		most, named := limits[currency]
		return limits == nil || named && amount <= most && amount >= -most
	}
	return within(k.MaxAmount) && within(k.MaxPerDay)
}

// PerDay is what the key may move of a currency in a day; nil: no limit.
func (k Key) PerDay(currency string) *int64 {
	if k.MaxPerDay == nil {
		return nil
	}
	most := k.MaxPerDay[currency]
	return &most
}

type nameKey struct{}

// WithName notes in a context which key it works for.
func WithName(ctx context.Context, h *Holder) context.Context {
	if h == nil {
		return ctx
	}
	return context.WithValue(ctx, nameKey{}, h.Name)
}

// NameIn returns the name that WithName has noted; empty where there is none.
func NameIn(ctx context.Context) string {
	name, _ := ctx.Value(nameKey{}).(string)
	return name
}
