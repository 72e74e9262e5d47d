package stripesim

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"time"
)

func TestShippedScenarios(t *testing.T) {
	t.Parallel()
	equal(t, "names", strings.Join(Scenarios(), " "), "goodwill marketplace month-end saas")
	for _, name := range Scenarios() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sc, err := OpenScenario(name)
			if err != nil {
				t.Fatal(err)
			}
			if sc.About == "" {
				t.Error("it does not say what it is about")
			}
			sc.Rate = 0
			var states [2][]byte
			for i := range states {
				s := start(t, Options{})
				p := NewPlay(s.Server, sc, 7)
				if err := p.Run(t.Context()); err != nil {
					t.Fatal(err)
				}
				if p.Done() < 200 {
					t.Errorf("only %d actions", p.Done())
				}
				types := map[string]bool{}
				for _, tr := range s.Truth() {
					if why := broken(tr); why != "" {
						t.Errorf("%s: %s", tr.ID, why)
					}
					for _, raw := range tr.BalanceTransactions {
						types[decode[struct{ Type string }](raw).Type] = true
					}
				}
				if name == "month-end" && (!types["invoice_too_small"] || !types["invoice_overpaid"] || !types["credit_note"] || !types["unapplied_from_invoice"]) {
					t.Errorf("types seen: %v", types)
				}
				equal(t, "virtual", s.Clock().Virtual, false)
				if d := s.Clock().Now.Unix() - s.hand.seconds(); d < 0 || d > 0 {
					t.Errorf("ends %d seconds from now", d)
				}
				states[i] = s.saved()
			}
			if !bytes.Equal(states[0], states[1]) {
				t.Error("the same seed gave two states")
			}
		})
	}
}

func TestScenarioRateAndStop(t *testing.T) {
	t.Parallel()
	s := start(t, Options{})
	sc, err := ParseScenario(strings.NewReader("rate 1000\ncustomers c 60\n"))
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	if err := NewPlay(s.Server, sc, 1).Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if d := time.Since(begin); d < 50*time.Millisecond {
		t.Errorf("60 actions at 1000 a second took %v", d)
	}
	sc, _ = ParseScenario(strings.NewReader("rate 0.001\ncustomers d 60\n"))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := NewPlay(s.Server, sc, 1).Run(ctx); err != nil {
		t.Fatal(err)
	}
}

func TestScenarioFaultsAreNamedByLine(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"dance":                                    `line 1: unknown command "dance"`,
		"customers a 0":                            "line 1: \"0\" is not a number",
		"customers a 5 odd=1":                      `line 1: customers does not take "odd=1"`,
		"\ngrant a amount=1":                       `line 2: no customers "a" before it`,
		"customers a 1\ngrant a":                   "line 2: grant needs amount=",
		"customers a 1\ngrant a amount=5..1":       "line 2: amount=5..1",
		"customers a 1\ncustomers a 1":             `line 2: the name "a" is taken`,
		"customers a 1\nadjust a amount=1 share=2": "share=2: not within 0 and 1",
		"repeat 3":                                 "repeat without end",
		"end":                                      "end without repeat",
		"advance x":                                "not a duration",
		"advance 5d 6d":                            "takes one argument",
		"start yesterday":                          "start takes a date",
		"rate fast":                                "rate must be a number",
		"account north":                            "begins with acct_",
		"fault odd":                                `unknown fault "odd"`,
		"customers a 1 currency=USD":               "no currency",
		`customers "a 1`:                           "a quote is not closed",
		"customers a 1\ninvoice a":                 "needs one of amount= and usage=",
		"customers a 1\ninvoice a amount=1 end=odd":   "none of paid",
		"customers a 1\ninvoice a usage=p quantity=3": "no such price",
		"customers a 1\nadjust a amount=1 type=odd":   "no type of balance transaction",
		// What could be played, though to no effect, or would fail then.
		"customers a 1\ngrant a amount=0":                                                     "amount=0: not from 1",
		"customers a 1\ngrant a amount=5 expires=-3d":                                         "expires=-3d: not longer than nothing",
		"customers a 1\ngrant a amount=5 expires=200000d":                                     "more than 100000 days",
		"customers a 1\ngrant a amount=5 starts=9d expires=9d":                                "it expires before it starts",
		"customers a 1\ngrant a amount=5 priority=90..101":                                    "priority=90..101: not from 0 to 100",
		"customers a 1\nnote a percent=0..50":                                                 "percent=0..50: not from 1 to 100",
		"customers a 1\npay a over=-5":                                                        "over=-5: not from 0",
		"customers a 1\nprolong a by=0s":                                                      "by=0s: not longer than nothing",
		"price p unit=-1":                                                                     "unit=-1: not from 0",
		"price p\ncustomers a 1\ninvoice a usage=p quantity=-1":                               "quantity=-1: not from 0",
		"price p currency=eur\ncustomers a 1\ninvoice a usage=p quantity=1":                   "the price is in eur, the customers pay in usd",
		"account acct_a\nprice p account=acct_a\ncustomers a 1\ninvoice a usage=p quantity=1": "the price is of another account",
		"account acct_a\nprice p\ncustomers a 1 account=acct_a\ngrant a amount=1 price=p":     "the price is of another account",
		"advance 200000d":              "not a duration",
		"fault 500":                    "needs probability= or count=",
		"fault 500 count=0":            "count=0: not from 1",
		"fault slow count=1 delay=-1s": "delay=-1s: not longer than nothing",
		"repeat 2 3\nend":              "takes one argument",
		"repeat 2\nend 3":              `end does not take "3"`,
	} {
		_, err := ParseScenario(strings.NewReader(text))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
	if _, err := OpenScenario("no-such"); err == nil || !strings.Contains(err.Error(), "shipped are goodwill") {
		t.Error(err)
	}
}

// weight is how many customers and rounds steps make, at most.
func weight(steps []step) (n int64) {
	for _, st := range steps {
		of := max(1, st.n)
		if st.body != nil {
			of *= 1 + weight(st.body)
		}
		if n += of; n > 1000 || of < 0 {
			return 1001
		}
	}
	return n
}

// FuzzScenario reads any script. It is refused, or it is a scenario: a small one can be
// played, which ends in an error or leaves the ledgers of every customer closed.
func FuzzScenario(f *testing.F) {
	f.Add("customers a 3 currency=usd balance=-900..100\ngrant a amount=500 expires=2d\nadjust a amount=-5..5\nadvance 3d\ndelete a share=0.5\n")
	for _, name := range Scenarios() {
		b, err := shipped.ReadFile("scenarios/" + name + ".txt")
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(b))
	}
	f.Fuzz(func(t *testing.T, text string) {
		sc, err := ParseScenario(strings.NewReader(text))
		if (sc == nil) == (err == nil) {
			t.Fatal("neither a scenario nor an error")
		}
		if err != nil || sc.Rate > 0 || weight(sc.steps) > 40 {
			return
		}
		s := fuzzed(t)
		defer s.Close()
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		if err := NewPlay(s, sc, 1).Run(ctx); err != nil {
			return
		}
		for _, tr := range s.Truth() {
			if bad := broken(tr); bad != "" {
				t.Fatalf("%s: %s", tr.ID, bad)
			}
		}
	})
}
