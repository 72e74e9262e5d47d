package access

import (
	"errors"
	"math"
	"testing"
	"time"
)

func TestFind(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	keys := New([]Key{
		{Name: "a", Digest: DigestOf("secret-a")},
		{Name: "none"},
		{Name: "old", Digest: DigestOf("secret-old"), Expires: now.Add(time.Hour)},
	}, func() time.Time { return now })
	for presented, want := range map[string]string{"secret-a": "a", "secret-old": "old", "": "", "secret-": "", "SECRET-A": "", "secret-a ": ""} {
		h, err := keys.Find(presented)
		switch {
		case want == "" && (h != nil || !errors.Is(err, ErrUnknown)):
			t.Errorf("%q: %v, %v", presented, h, err)
		case want != "" && (err != nil || h.Name != want):
			t.Errorf("%q: %v, %v", presented, h, err)
		}
	}
	now = now.Add(time.Hour)
	if h, err := keys.Find("secret-old"); !errors.Is(err, ErrExpired) || h == nil {
		t.Errorf("at its end: %v, %v", h, err)
	}
	if _, err := (*Keys)(nil).Find("x"); !errors.Is(err, ErrUnknown) {
		t.Error(err)
	}
}

func TestRights(t *testing.T) {
	t.Parallel()
	all, none := Key{Write: true}, Key{}
	some := Key{Write: true, Accounts: []string{"acct_1"}, Ledgers: []Ledger{Credits}, Operations: []Operation{Grant}}
	for _, c := range []struct {
		name      string
		got, want bool
	}{
		{"all see", all.MaySee("") && all.MaySee("acct_2") && all.MayReadAll(), true},
		{"all do", all.MayDo(Adjust) && all.MayDo(Void), true},
		{"a read key does", none.MayDo(Edit), false},
		{"some see the platform", some.MaySee(""), false},
		{"some see their account", some.MaySee("acct_1"), true},
		{"some read balances", some.MayRead(Balance), false},
		{"some read all", some.MayReadAll(), false},
		{"some do theirs", some.MayDo(Grant), true},
		{"some do others", some.MayDo(Void), false},
		{"bound to no account", (Key{Accounts: []string{}}).MaySee(""), false},
	} {
		if c.got != c.want {
			t.Errorf("%s: %t", c.name, c.got)
		}
	}
}

func TestAmounts(t *testing.T) {
	t.Parallel()
	k := Key{MaxAmount: map[string]int64{"usd": 100, "jpy": 0}, MaxPerDay: map[string]int64{"usd": 1000}}
	for _, c := range []struct {
		currency string
		amount   int64
		want     bool
	}{
		{"usd", 100, true},
		{"usd", -100, true},
		{"usd", 101, false},
		{"usd", -101, false},
		{"usd", math.MinInt64, false},
		{"usd", math.MaxInt64, false},
		{"eur", 1, false},
		{"eur", 0, false},
		{"jpy", 0, false}, // not in MaxPerDay
		{"USD", 1, false},
		{"", 0, false},
	} {
		if got := k.MayWrite(c.currency, c.amount); got != c.want {
			t.Errorf("%s %d: %t", c.currency, c.amount, got)
		}
	}
	if !(Key{}).MayWrite("eur", math.MinInt64) || (Key{}).PerDay("usd") != nil || *k.PerDay("usd") != 1000 || *k.PerDay("eur") != 0 {
		t.Error("limits that are none limit, or others do not")
	}
}

func TestUsesAreToldOnce(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	keys := New([]Key{{Name: "a", Digest: DigestOf("a")}, {Name: "b", Digest: DigestOf("b")}}, func() time.Time { return now })
	if got := keys.Uses(); len(got) != 0 {
		t.Errorf("%v", got)
	}
	_, _ = keys.Find("a")
	if got := keys.Uses(); len(got) != 1 || got[0] != (Use{"a", now}) {
		t.Errorf("%v", got)
	}
	if got := keys.Uses(); len(got) != 0 {
		t.Errorf("told twice: %v", got)
	}
	keys.Untold()
	if got := keys.Uses(); len(got) != 1 {
		t.Errorf("not told again: %v", got)
	}
}

func TestNamed(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	keys := New([]Key{{Name: "a", Digest: DigestOf("secret-a")}, {Name: "old", Expires: now}}, func() time.Time { return now })
	if h, err := keys.Named("a"); err != nil || h.Name != "a" || len(keys.Uses()) != 1 {
		t.Errorf("%v, %v", h, err)
	}
	if h, err := keys.Named("old"); !errors.Is(err, ErrExpired) || h == nil {
		t.Errorf("%v, %v", h, err)
	}
	for _, k := range []*Keys{keys, nil} {
		if h, err := k.Named("secret-a"); !errors.Is(err, ErrUnknown) || h != nil {
			t.Errorf("%v, %v", h, err)
		}
	}
	if a, b := (Key{Digest: DigestOf("a")}).Bond(), (Key{Digest: DigestOf("b")}).Bond(); a == b || len(a) != 64 {
		t.Errorf("%q, %q", a, b)
	}
}
