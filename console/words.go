package console

import (
	"cmp"
	"fmt"
	"html/template"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/report"
)

// funcs are what templates can call.
func funcs() template.FuncMap {
	return template.FuncMap{
		"held":     held,
		"moved":    moved,
		"money":    report.Money,
		"count":    func(n any) string { return count(whole(n)) },
		"when":     when,
		"day":      func(t time.Time) string { return t.UTC().Format(time.DateOnly) },
		"ago":      ago,
		"age":      age,
		"seconds":  seconds,
		"account":  accountName,
		"customer": customerPath,
		"kind":     kindText,
		"cause":    causeText,
		"bytes":    sizeText,
		"plural":   func(n any, thing string) string { return plural(whole(n), thing) },
		"upper":    strings.ToUpper,
		"title":    title,
		"id":       func(id string) idText { return idText{ID: id} },
		"link":     func(id, href string) idText { return idText{id, href} },
		"abs":      mirror.Magnitude,
		"sub":      func(a, b int64) int64 { return a - b },
		"percent":  percent,
		"query":    url.QueryEscape,
		"ledger":   func(l string) string { return ledgerNames[l] },
		"dict":     dict,
		"whole":    whole,
		"list":     func(items ...string) []string { return items },
	}
}

// whole reads a number of any width.
func whole(n any) int64 {
	switch n := n.(type) {
	case int:
		return int64(n)
	case int32:
		return int64(n)
	case int64:
		return n
	}
	return 0
}

// idText is an id that a click copies, with a page that it leads to.
type idText struct{ ID, Href string }

// dict makes the data of a part out of names and values.
func dict(pairs ...any) (map[string]any, error) {
	if len(pairs)%2 != 0 {
		return nil, fmt.Errorf("dict: %d values", len(pairs))
	}
	m := map[string]any{}
	for i := 0; i < len(pairs); i += 2 {
		name, ok := pairs[i].(string)
		if !ok {
			return nil, fmt.Errorf("dict: %v is no name", pairs[i])
		}
		m[name] = pairs[i+1]
	}
	return m, nil
}

var ledgerNames = map[string]string{"balance": "Customer balance", "credits": "Billing credits"}

// amount is an amount for people: the number with its currency, and a word for its sign.
type amount struct {
	Number, Word, Class string
}

// held is what somebody has: in the balance ledger the word says what the sign did.
func held(ledger any, n int64, currency string) amount {
	l := report.Ledger(fmt.Sprint(ledger))
	a := amount{Number: report.Money(n, currency), Word: report.Words(l, n)}
	if l == report.LedgerBalance || n < 0 {
		a.Number = strings.TrimPrefix(a.Number, "-")
	}
	a.Class = map[string]string{"credit": "credit", "owed": "owed", "overdrawn": "owed", "nothing": "nothing"}[a.Word]
	return a
}

// moved is a movement: what it gave or took, seen by the customer.
func moved(ledger any, n int64, currency string) amount {
	l := report.Ledger(fmt.Sprint(ledger))
	a := amount{Number: strings.TrimPrefix(report.Money(n, currency), "-"), Word: "", Class: "nothing"}
	gives := n > 0
	if l == report.LedgerBalance {
		gives = n < 0
	}
	switch {
	case n == 0:
	case gives:
		a.Word, a.Class = "gives", "credit"
	default:
		a.Word, a.Class = "takes", "owed"
	}
	return a
}

// count writes a number with thousands apart.
func count[N int | int64](n N) string {
	text := strconv.FormatInt(int64(n), 10)
	neg := strings.HasPrefix(text, "-")
	text = strings.TrimPrefix(text, "-")
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	if neg {
		return "-" + text
	}
	return text
}

// moment is a time as pages show it: UTC, which the script turns into local time.
type moment struct{ Machine, Text string }

func when(t time.Time) moment {
	if t.IsZero() {
		return moment{"", "never"}
	}
	t = t.UTC()
	return moment{t.Format(time.RFC3339), t.Format("2006-01-02 15:04:05") + " UTC"}
}

// ago says how long ago a time was, from now.
func ago(now, t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	switch d := now.Sub(t); {
	case d > -5*time.Second && d < time.Second:
		return "just now"
	case d < 0:
		return "in " + age(-d)
	default:
		return age(d) + " ago"
	}
}

// age is a duration in one or two words.
func age(d time.Duration) string {
	switch {
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < time.Minute:
		return plural(int64(d/time.Second), "second")
	case d < time.Hour:
		return plural(int64(d/time.Minute), "minute")
	case d < 48*time.Hour:
		return plural(int64(d/time.Hour), "hour")
	}
	return plural(int64(d/(24*time.Hour)), "day")
}

// plural counts things.
func plural[N int | int64](n N, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	switch {
	case strings.HasSuffix(thing, "y") && !strings.HasSuffix(thing, "ay"):
		thing = strings.TrimSuffix(thing, "y") + "ie"
	}
	return count(n) + " " + thing + "s"
}

func seconds(v *float64) string {
	if v == nil {
		return "–"
	}
	return age(time.Duration(*v * float64(time.Second)))
}

func title(s string) string {
	s = strings.ReplaceAll(strings.ReplaceAll(s, "_", " "), "-", " ")
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

func sizeText(n int64) string {
	switch {
	case n >= 1<<30:
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	case n >= 1<<10:
		return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
	}
	return plural(n, "byte")
}

// percent is a share, which is 100 % only where nothing is missing.
func percent(part, whole int64) string {
	if whole <= 0 || part >= whole {
		return "100 %"
	}
	p := float64(part) * 100 / float64(whole)
	return strconv.FormatFloat(min(p, 99.99), 'f', 2, 64) + " %"
}

// kindText says what a kind of finding is.
func kindText(k mirror.DriftKind) string {
	text := map[mirror.DriftKind]string{
		mirror.DriftBalanceMismatch: "Balance differs", mirror.DriftChainGap: "Rows do not add up to the balance", mirror.DriftMissingTransaction: "A transaction is missing",
		mirror.DriftUnexpectedTransaction: "A transaction that Stripe does not show", mirror.DriftFieldMismatch: "A field differs",
		mirror.DriftSummaryMismatch: "Billing credits differ from Stripe's summary", mirror.DriftGrantOutOfBounds: "A grant has more or less left than it can",
		mirror.DriftMissingCustomer: "A customer is missing", mirror.DriftMissedEvent: "An event that no sync has answered", mirror.DriftOrphan: "A row that belongs to nothing",
	}[k]
	return cmp.Or(text, title(string(k)))
}

// causeText says what a cause means.
func causeText(cause string) string {
	text := map[string]string{
		mirror.CauseMissedEvent: "No event announced the change, or it did not arrive.",
		mirror.CauseSilentEdit:  "Stripe sends no event for what was edited.",
		mirror.CauseTornRead:    "Stripe's replies did not fit each other: it changed while it was read.",
		mirror.CauseAway:        "No receiver of ours ran when Stripe delivered the event; it delivers it again.",
		mirror.CauseLostRedis:   "The queue entry of a received event was lost with Redis.",
		mirror.CauseRewritten:   "Stripe's reply contradicts a row that is unchanged since it was written. The reply is refused as long as it does.",
		mirror.CauseUnknown:     "Nothing known explains it: the stored rows contradict themselves.",
	}[cause]
	return cmp.Or(text, cause)
}

// balanceCell is one amount of a ledger in a currency.
type balanceCell struct {
	Ledger, Currency string
	Amount           int64
}

// cells lists balances by currency; zeros are left out unless there is nothing else.
func cells(ledger mirror.Scope, by map[string]int64) []balanceCell {
	var list []balanceCell
	for currency, n := range by {
		if n != 0 {
			list = append(list, balanceCell{string(ledger), currency, n})
		}
	}
	slices.SortFunc(list, func(a, b balanceCell) int { return cmp.Compare(a.Currency, b.Currency) })
	return list
}
