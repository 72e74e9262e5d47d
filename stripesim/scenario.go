package stripesim

import (
	"bufio"
	"context"
	"embed"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

//go:embed scenarios/*.txt
var shipped embed.FS

// Scenario is a script of what happens to customers; docs/simulator.md has its
// language.
type Scenario struct {
	// About is the text of its about lines.
	About string
	// Rate is actions per second of real time; 0 is as fast as possible.
	Rate  float64
	start *moment
	steps []step
}

// moment is a time, or one so long before the present.
type moment struct {
	at  time.Time
	ago time.Duration
}

// step is one command, or a repeat with its body.
type step struct {
	line int
	cmd  string
	name string // the group, price or account
	n    int64  // customers, repeat
	dur  time.Duration
	args map[string]string
	body []step
}

// command is a word that begins a line of a script.
type command struct {
	named bool     // it has a name argument: the first word after it
	keys  []string // the arguments that it takes
	needs []string // those that it cannot do without
	// parse reads the words that are not key=value and returns those left; nil: there are none.
	parse func(p *scriptParser, st *step, words []string) []string
	// end reports that parse has done all there is to do; the line is no step of its own.
	end bool
	// check refuses what could not be played, or to no effect; nil: any group of customers.
	check func(p *scriptParser, st step)
	// step is played once; act for each customer of the group, whose account is locked.
	step func(ctx context.Context, p *Play, st step) error
	act  func(p *Play, st step, m member, cz cause)
}

func words(s string) []string { return strings.Fields(s) }

// commands is filled by init, since repeat runs steps, which are commands.
var commands map[string]command

func init() {
	commands = map[string]command{
		"about":    {end: true, parse: (*scriptParser).about},
		"rate":     {end: true, parse: (*scriptParser).rate},
		"start":    {end: true, parse: (*scriptParser).begin},
		"end":      {end: true, parse: (*scriptParser).endRepeat},
		"repeat":   {end: true, parse: (*scriptParser).repeat, step: runRepeat},
		"advance":  {parse: (*scriptParser).advance, check: anything, step: runAdvance},
		"now":      {check: anything, step: runNow},
		"nofaults": {check: anything, step: runNoFaults},
		"fault":    {named: true, keys: words("probability count delay event endpoint"), check: (*scriptParser).fault, step: runFault},

		"account":   {named: true, check: (*scriptParser).define, step: runAccount},
		"price":     {named: true, keys: words("account currency unit metered"), check: (*scriptParser).define, step: runPrice},
		"customers": {named: true, keys: words("account currency balance"), parse: (*scriptParser).number, check: (*scriptParser).define, step: runCustomers},

		"grant": {
			named: true, keys: words("amount currency expires starts category priority name price share"), needs: words("amount"),
			check: (*scriptParser).grant, act: actGrant,
		},
		"invoice":      {named: true, keys: words("amount usage quantity end share"), check: (*scriptParser).invoice, act: actInvoice},
		"adjust":       {named: true, keys: words("amount currency type description share"), needs: words("amount"), act: actAdjust},
		"set":          {named: true, keys: words("balance share"), needs: words("balance"), act: actSet},
		"note":         {named: true, keys: words("percent share"), needs: words("percent"), act: actNote},
		"void":         {named: true, keys: words("share"), act: actOnGrant},
		"expire":       {named: true, keys: words("share"), act: actOnGrant},
		"prolong":      {named: true, keys: words("by share"), needs: words("by"), act: actOnGrant},
		"pay":          {named: true, keys: words("over share"), act: actPay},
		"void_invoice": {named: true, keys: words("share"), act: actVoidInvoice},
		"edit":         {named: true, keys: words("share"), act: actEdit},
		"rename":       {named: true, keys: words("share"), act: actRename},
		"delete":       {named: true, keys: words("share"), act: actDelete},
	}
}

// Scenarios are the names of the shipped scenarios.
func Scenarios() []string {
	entries, _ := shipped.ReadDir("scenarios") // embedded: cannot fail
	var out []string
	for _, e := range entries {
		out = append(out, strings.TrimSuffix(e.Name(), ".txt"))
	}
	return out
}

// OpenScenario reads a shipped scenario by its name, or a file.
func OpenScenario(name string) (*Scenario, error) {
	if slices.Contains(Scenarios(), name) {
		f, err := shipped.Open("scenarios/" + name + ".txt")
		if err != nil {
			return nil, err
		}
		defer f.Close()
		return ParseScenario(f)
	}
	f, err := os.Open(name) // #nosec G304 -- the path is the user's
	if err != nil {
		return nil, fmt.Errorf("scenario: %w; shipped are %s", err, strings.Join(Scenarios(), ", "))
	}
	defer f.Close()
	sc, err := ParseScenario(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return sc, nil
}

// ParseScenario reads a script. All faults are reported, each with its line.
func ParseScenario(r io.Reader) (*Scenario, error) {
	p := &scriptParser{sc: &Scenario{}, names: map[string]named{}}
	p.open = []*[]step{&p.sc.steps}
	in := bufio.NewScanner(r)
	for in.Scan() {
		p.n++
		words, err := splitWords(in.Text())
		if err != nil {
			p.fail("%v", err)
			continue
		}
		if len(words) > 0 {
			p.line(words)
		}
	}
	if err := in.Err(); err != nil {
		return nil, fmt.Errorf("scenario: %w", err)
	}
	if len(p.open) > 1 {
		p.fail("repeat without end")
	}
	if len(p.errs) > 0 {
		return nil, errors.Join(p.errs...)
	}
	return p.sc, nil
}

type scriptParser struct {
	sc    *Scenario
	n     int // line
	open  []*[]step
	names map[string]named
	errs  []error
}

// named is what a name of a script stands for.
type named struct {
	cmd               string // that made it: customers, price or account
	account, currency string
}

func (p *scriptParser) fail(format string, args ...any) {
	p.errs = append(p.errs, fmt.Errorf("line %d: %s", p.n, fmt.Sprintf(format, args...)))
}

// splitWords splits a line at blanks outside quotes, and drops the comment.
func splitWords(text string) ([]string, error) {
	var words []string
	var b strings.Builder
	quoted, in := false, false
	for _, r := range text {
		switch {
		case r == '"':
			quoted, in = !quoted, true
		case quoted:
			b.WriteRune(r)
		case r == '#':
			if in {
				words = append(words, b.String())
			}
			return words, nil
		case r == ' ' || r == '\t':
			if in {
				words = append(words, b.String())
				b.Reset()
				in = false
			}
		default:
			b.WriteRune(r)
			in = true
		}
	}
	if quoted {
		return nil, errors.New("a quote is not closed")
	}
	if in {
		words = append(words, b.String())
	}
	return words, nil
}

func (p *scriptParser) line(words []string) {
	name, rest := words[0], words[1:]
	c, ok := commands[name]
	if !ok {
		p.fail("unknown command %q", name)
		return
	}
	st := step{line: p.n, cmd: name, args: map[string]string{}}
	if c.named {
		if len(rest) == 0 {
			p.fail("%s needs a name", name)
			return
		}
		st.name, rest = rest[0], rest[1:]
	}
	if c.parse != nil {
		rest = c.parse(p, &st, rest)
	}
	for _, w := range rest {
		k, v, given := strings.Cut(w, "=")
		switch {
		case !slices.Contains(c.keys, k):
			p.fail("%s does not take %q", name, w)
		case !given:
			st.args[k] = "yes"
		default:
			st.args[k] = v
		}
	}
	if c.end {
		return
	}
	p.arguments(st, c.needs)
	if c.check == nil {
		c.check = (*scriptParser).group
	}
	c.check(p, st)
	p.add(st)
}

// one returns the only argument of a command.
func (p *scriptParser) one(cmd string, words []string) string {
	if len(words) != 1 {
		p.fail("%s takes one argument", cmd)
		return ""
	}
	return words[0]
}

func (p *scriptParser) about(_ *step, words []string) []string {
	p.sc.About = strings.TrimSpace(p.sc.About + " " + strings.Join(words, " "))
	return nil
}

func (p *scriptParser) rate(st *step, words []string) []string {
	v, err := strconv.ParseFloat(p.one(st.cmd, words), 64)
	if err != nil || !(v >= 0) {
		p.fail("rate must be a number of actions per second")
	}
	p.sc.Rate = v
	return nil
}

func (p *scriptParser) advance(st *step, words []string) []string {
	st.dur = p.duration(st.cmd, p.one(st.cmd, words))
	return nil
}

func (p *scriptParser) number(st *step, words []string) []string {
	if len(words) == 0 {
		p.fail("customers needs a name and a number")
		return nil
	}
	st.n = p.count(words[0])
	return words[1:]
}

func (p *scriptParser) add(st step) {
	at := p.open[len(p.open)-1]
	*at = append(*at, st)
}

func (p *scriptParser) begin(_ *step, words []string) []string {
	switch {
	case len(words) == 2 && words[1] == "ago":
		p.sc.start = &moment{ago: p.duration("start", words[0])}
		return nil
	case len(words) == 1:
		for _, layout := range []string{time.DateOnly, time.RFC3339} {
			if at, err := time.Parse(layout, words[0]); err == nil {
				p.sc.start = &moment{at: at}
				return nil
			}
		}
	}
	p.fail("start takes a date, a time in RFC 3339, or a duration and ago")
	return nil
}

// repeat adds the step and opens its body.
func (p *scriptParser) repeat(st *step, words []string) []string {
	st.n = p.count(p.one(st.cmd, words))
	p.add(*st)
	at := *p.open[len(p.open)-1]
	p.open = append(p.open, &at[len(at)-1].body)
	return nil
}

func (p *scriptParser) endRepeat(_ *step, words []string) []string {
	if len(words) > 0 {
		p.fail("end does not take %q", words[0])
	}
	if len(p.open) == 1 {
		p.fail("end without repeat")
		return nil
	}
	p.open = p.open[:len(p.open)-1]
	return nil
}

func (p *scriptParser) count(v string) int64 {
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil || n < 1 || n > 10_000_000 {
		p.fail("%q is not a number from 1 to 10000000", v)
	}
	return n
}

func (p *scriptParser) duration(what, v string) time.Duration {
	d, err := parseDays(v)
	if err != nil || d <= 0 {
		p.fail("%s: %q is not a duration such as 30d, 12h or 90s", what, v)
	}
	return d
}

// maxDays is what a duration can hold, rounded down.
const maxDays = 100_000

// parseDays is time.ParseDuration with days.
func parseDays(v string) (time.Duration, error) {
	if days, ok := strings.CutSuffix(v, "d"); ok {
		n, err := strconv.ParseInt(days, 10, 32)
		if n > maxDays {
			return 0, fmt.Errorf("more than %d days", maxDays)
		}
		return time.Duration(n) * 24 * time.Hour, err
	}
	return time.ParseDuration(v)
}

// span is a range of integers, "a..b" or one number.
func span(v string) (lo, hi int64, err error) {
	a, b, ok := strings.Cut(v, "..")
	if !ok {
		b = a
	}
	if lo, err = strconv.ParseInt(a, 10, 64); err != nil {
		return 0, 0, err
	}
	if hi, err = strconv.ParseInt(b, 10, 64); err != nil {
		return 0, 0, err
	}
	if lo > hi || lo < -maxAmount || hi > maxAmount {
		return 0, 0, errors.New("not a range")
	}
	return lo, hi, nil
}

// within checks a span against bounds.
func within(v string, lo, hi int64) error {
	a, b, err := span(v)
	switch {
	case err != nil:
		return err
	case a >= lo && b <= hi:
		return nil
	case hi == maxAmount:
		return fmt.Errorf("not from %d", lo)
	}
	return fmt.Errorf("not from %d to %d", lo, hi)
}

// arguments are the rules for the values of arguments, whatever command they are of.
var arguments = map[string]func(p *scriptParser, st step, v string) error{
	"amount": func(_ *scriptParser, st step, v string) error {
		if st.cmd == "grant" {
			return within(v, 1, maxAmount)
		}
		return within(v, -maxAmount, maxAmount)
	},
	"balance":     numbers(-maxAmount, maxAmount),
	"unit":        numbers(0, maxAmount),
	"quantity":    numbers(0, maxAmount),
	"over":        numbers(0, maxAmount),
	"count":       numbers(1, maxAmount),
	"percent":     numbers(1, 100),
	"priority":    numbers(0, 100),
	"share":       probability,
	"probability": probability,
	"expires":     someTime,
	"starts":      someTime,
	"by":          someTime,
	"delay":       someTime,
	"price":       knownPrice,
	"usage":       usage,
	"category":    among("neither paid nor promotional", "paid", "promotional"),
	"end":         among("none of "+strings.Join(invoiceEnds, ", "), invoiceEnds...),
	"type":        among("no type of balance transaction", BalanceTypes...),
	"metered":     among("takes no value", "yes"),
	"currency":    only(isCurrency, "no currency"),
	"endpoint":    only(knownEndpoint, "no named endpoint"),
	"account": func(p *scriptParser, _ step, v string) error {
		if p.names[v].cmd != "account" {
			return errors.New("no such account before it")
		}
		return nil
	},
}

func numbers(lo, hi int64) func(*scriptParser, step, string) error {
	return func(_ *scriptParser, _ step, v string) error { return within(v, lo, hi) }
}

func only(ok func(string) bool, otherwise string) func(*scriptParser, step, string) error {
	return func(_ *scriptParser, _ step, v string) error {
		if !ok(v) {
			return errors.New(otherwise)
		}
		return nil
	}
}

func among(otherwise string, values ...string) func(*scriptParser, step, string) error {
	return only(func(v string) bool { return slices.Contains(values, v) }, otherwise)
}

func probability(_ *scriptParser, _ step, v string) error {
	f, err := strconv.ParseFloat(v, 64)
	if err == nil && !(f >= 0 && f <= 1) {
		err = errors.New("not within 0 and 1")
	}
	return err
}

func someTime(_ *scriptParser, _ step, v string) error {
	d, err := parseDays(v)
	if err == nil && d <= 0 {
		err = errors.New("not longer than nothing")
	}
	return err
}

func knownPrice(p *scriptParser, st step, v string) error {
	of, price := p.names[st.name], p.names[v]
	switch {
	case price.cmd != "price":
		return errors.New("no such price before it")
	case of.cmd == "customers" && price.account != of.account:
		return errors.New("the price is of another account")
	}
	return nil
}

// usage is of a price in the currency that the customers pay in.
func usage(p *scriptParser, st step, v string) error {
	of, price := p.names[st.name], p.names[v]
	if err := knownPrice(p, st, v); err != nil {
		return err
	}
	if of.cmd == "customers" && price.currency != of.currency {
		return fmt.Errorf("the price is in %s, the customers pay in %s", price.currency, of.currency)
	}
	return nil
}

// arguments refuses values that could not be played, or to no effect.
func (p *scriptParser) arguments(st step, needs []string) {
	for _, k := range slices.Sorted(maps.Keys(st.args)) {
		if rule := arguments[k]; rule != nil { // without a rule it is free text
			if err := rule(p, st, st.args[k]); err != nil {
				p.fail("%s=%s: %v", k, st.args[k], err)
			}
		}
	}
	for _, k := range needs {
		if st.args[k] == "" {
			p.fail("%s needs %s=", st.cmd, k)
		}
	}
}

func anything(*scriptParser, step) {}

// define takes the name of an account, a price or customers.
func (p *scriptParser) define(st step) {
	if p.names[st.name].cmd != "" {
		p.fail("the name %q is taken", st.name)
	}
	p.names[st.name] = named{st.cmd, st.args["account"], st.text("currency", "usd")}
	if st.cmd == "account" && !strings.HasPrefix(st.name, "acct_") {
		p.fail("an account begins with acct_")
	}
}

func (p *scriptParser) fault(st step) {
	if k := FaultKind(st.name); !replyFaults[k] && !otherFaults[k] {
		p.fail("unknown fault %q", st.name)
	}
	if st.args["probability"] == "" && st.args["count"] == "" {
		p.fail("fault needs probability= or count=: it would never strike")
	}
}

func (p *scriptParser) grant(st step) {
	if at := st.duration("starts"); at > 0 && st.args["expires"] != "" && st.duration("expires") <= at {
		p.fail("grant: it expires before it starts")
	}
	p.group(st)
}

func (p *scriptParser) invoice(st step) {
	if (st.args["amount"] == "") == (st.args["usage"] == "") {
		p.fail("invoice needs one of amount= and usage=")
	}
	if (st.args["usage"] == "") != (st.args["quantity"] == "") {
		p.fail("usage= and quantity= go together")
	}
	p.group(st)
}

// group refuses what concerns a group of customers that there is not.
func (p *scriptParser) group(st step) {
	if p.names[st.name].cmd != "customers" {
		p.fail("no customers %q before it", st.name)
	}
}

// invoiceEnds are how an invoice of a scenario can end.
var invoiceEnds = []string{"paid", "open", "draft", "void", "overpaid", "uncollectible"}
