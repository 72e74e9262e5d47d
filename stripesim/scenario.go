package stripesim

import (
	"bufio"
	"context"
	"embed"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
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

// commands are the commands with the arguments that each takes; the first word
// after the command is its name argument, if it has one.
var commands = map[string]struct {
	named bool
	keys  string
}{
	"customers":    {true, "account currency balance"},
	"price":        {true, "account currency unit metered"},
	"account":      {true, ""},
	"grant":        {true, "amount currency expires starts category priority name price share"},
	"invoice":      {true, "amount usage quantity end share"},
	"adjust":       {true, "amount currency type description share"},
	"set":          {true, "balance share"},
	"note":         {true, "percent share"},
	"void":         {true, "share"},
	"expire":       {true, "share"},
	"prolong":      {true, "by share"},
	"pay":          {true, "over share"},
	"void_invoice": {true, "share"},
	"edit":         {true, "share"},
	"rename":       {true, "share"},
	"delete":       {true, "share"},
	"fault":        {true, "probability count delay event endpoint"},
	"nofaults":     {false, ""},
	"advance":      {false, ""},
	"now":          {false, ""},
	"repeat":       {false, ""},
	"end":          {false, ""},
	"start":        {false, ""},
	"rate":         {false, ""},
	"about":        {false, ""},
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
	f, err := os.Open(name)
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
	cmd, rest := words[0], words[1:]
	c, ok := commands[cmd]
	if !ok {
		p.fail("unknown command %q", cmd)
		return
	}
	st := step{line: p.n, cmd: cmd, args: map[string]string{}}
	if c.named {
		if len(rest) == 0 {
			p.fail("%s needs a name", cmd)
			return
		}
		st.name, rest = rest[0], rest[1:]
	}
	one := func() string { // the only argument
		if len(rest) != 1 {
			p.fail("%s takes one argument", cmd)
			return ""
		}
		v := rest[0]
		rest = nil
		return v
	}
	switch cmd {
	case "about":
		p.sc.About = strings.TrimSpace(p.sc.About + " " + strings.Join(rest, " "))
		return
	case "rate":
		v, err := strconv.ParseFloat(one(), 64)
		if err != nil || !(v >= 0) {
			p.fail("rate must be a number of actions per second")
		}
		p.sc.Rate = v
		return
	case "start":
		p.begin(rest)
		return
	case "advance":
		st.dur = p.duration("advance", one())
	case "repeat":
		st.n = p.count(one())
		p.add(st)
		at := *p.open[len(p.open)-1]
		p.open = append(p.open, &at[len(at)-1].body)
		return
	case "end":
		if len(rest) > 0 {
			p.fail("end does not take %q", rest[0])
		}
		if len(p.open) == 1 {
			p.fail("end without repeat")
			return
		}
		p.open = p.open[:len(p.open)-1]
		return
	case "customers":
		if len(rest) == 0 {
			p.fail("customers needs a name and a number")
			return
		}
		st.n, rest = p.count(rest[0]), rest[1:]
	}
	for _, w := range rest {
		k, v, ok := strings.Cut(w, "=")
		switch {
		case !ok && slices.Contains(strings.Fields(c.keys), k):
			st.args[k] = "yes"
		case !ok || !slices.Contains(strings.Fields(c.keys), k):
			p.fail("%s does not take %q", cmd, w)
		default:
			st.args[k] = v
		}
	}
	p.check(st)
	p.add(st)
}

func (p *scriptParser) add(st step) {
	at := p.open[len(p.open)-1]
	*at = append(*at, st)
}

func (p *scriptParser) begin(words []string) {
	switch {
	case len(words) == 2 && words[1] == "ago":
		p.sc.start = &moment{ago: p.duration("start", words[0])}
	case len(words) == 1:
		at, err := time.Parse(time.DateOnly, words[0])
		if err != nil {
			at, err = time.Parse(time.RFC3339, words[0])
		}
		if err != nil {
			p.fail("start takes a date, a time in RFC 3339, or a duration and ago")
		}
		p.sc.start = &moment{at: at}
	default:
		p.fail("start takes a date, a time in RFC 3339, or a duration and ago")
	}
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

// bounds are those of numbers that are not amounts of either sign.
var bounds = map[string][2]int64{
	"unit": {0, maxAmount}, "quantity": {0, maxAmount}, "over": {0, maxAmount}, "percent": {1, 100}, "priority": {0, 100}, "count": {1, maxAmount},
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

// check refuses values that could not be played, or to no effect.
func (p *scriptParser) check(st step) {
	of := p.names[st.name]
	for _, k := range slices.Sorted(maps.Keys(st.args)) {
		v := st.args[k]
		var err error
		switch k {
		case "amount", "balance":
			lo := int64(-maxAmount)
			if st.cmd == "grant" {
				lo = 1
			}
			err = within(v, lo, maxAmount)
		case "unit", "quantity", "percent", "priority", "over", "count":
			err = within(v, bounds[k][0], bounds[k][1])
		case "share", "probability":
			var f float64
			if f, err = strconv.ParseFloat(v, 64); err == nil && !(f >= 0 && f <= 1) {
				err = errors.New("not within 0 and 1")
			}
		case "expires", "starts", "by", "delay":
			var d time.Duration
			if d, err = parseDays(v); err == nil && d <= 0 {
				err = errors.New("not longer than nothing")
			}
		case "currency":
			if !isCurrency(v) {
				err = errors.New("no currency")
			}
		case "category":
			if v != "paid" && v != "promotional" {
				err = errors.New("neither paid nor promotional")
			}
		case "end":
			if !slices.Contains(invoiceEnds, v) {
				err = fmt.Errorf("none of %s", strings.Join(invoiceEnds, ", "))
			}
		case "price", "usage":
			switch price := p.names[v]; {
			case price.cmd != "price":
				err = errors.New("no such price before it")
			case of.cmd == "customers" && price.account != of.account:
				err = errors.New("the price is of another account")
			case k == "usage" && of.cmd == "customers" && price.currency != of.currency:
				err = fmt.Errorf("the price is in %s, the customers pay in %s", price.currency, of.currency)
			}
		case "type":
			if !slices.Contains(BalanceTypes, v) {
				err = errors.New("no type of balance transaction")
			}
		case "account":
			if p.names[v].cmd != "account" {
				err = errors.New("no such account before it")
			}
		case "endpoint":
			if !knownEndpoint(v) {
				err = errors.New("no named endpoint")
			}
		case "metered":
			if v != "yes" {
				err = errors.New("takes no value")
			}
		}
		if err != nil {
			p.fail("%s=%s: %v", k, v, err)
		}
	}
	need := map[string][]string{
		"grant": {"amount"}, "adjust": {"amount"}, "set": {"balance"}, "prolong": {"by"}, "note": {"percent"},
	}[st.cmd]
	for _, k := range need {
		if st.args[k] == "" {
			p.fail("%s needs %s=", st.cmd, k)
		}
	}
	switch st.cmd {
	case "customers", "price", "account":
		if of.cmd != "" {
			p.fail("the name %q is taken", st.name)
		}
		p.names[st.name] = named{st.cmd, st.args["account"], st.text("currency", "usd")}
		if st.cmd == "account" && !strings.HasPrefix(st.name, "acct_") {
			p.fail("an account begins with acct_")
		}
	case "fault":
		if k := FaultKind(st.name); !replyFaults[k] && !otherFaults[k] {
			p.fail("unknown fault %q", st.name)
		}
		if st.args["probability"] == "" && st.args["count"] == "" {
			p.fail("fault needs probability= or count=: it would never strike")
		}
	case "grant":
		if at := st.duration("starts"); at > 0 && st.args["expires"] != "" && st.duration("expires") <= at {
			p.fail("grant: it expires before it starts")
		}
		p.group(st)
	case "invoice":
		if (st.args["amount"] == "") == (st.args["usage"] == "") {
			p.fail("invoice needs one of amount= and usage=")
		}
		if (st.args["usage"] == "") != (st.args["quantity"] == "") {
			p.fail("usage= and quantity= go together")
		}
		p.group(st)
	default:
		p.group(st)
	}
}

// group refuses what concerns a group of customers that there is not.
func (p *scriptParser) group(st step) {
	if commands[st.cmd].named && p.names[st.name].cmd != "customers" {
		p.fail("no customers %q before it", st.name)
	}
}

// invoiceEnds are how an invoice of a scenario can end.
var invoiceEnds = []string{"paid", "open", "draft", "void", "overpaid", "uncollectible"}

// Play is a scenario that is being played.
type Play struct {
	s      *Server
	sc     *Scenario
	rng    *rand.Rand
	groups map[string][]member
	home   map[string]string // group → its currency
	prices map[string]*price
	began  time.Time
	done   atomic.Int64
}

// NewPlay prepares a scenario on s. The seed decides amounts and who is picked.
func NewPlay(s *Server, sc *Scenario, seed int64) *Play {
	return &Play{s: s, sc: sc, rng: rand.New(rand.NewPCG(uint64(seed), 0x5ce9a)), groups: map[string][]member{}, home: map[string]string{}, prices: map[string]*price{}}
}

// Done returns the number of actions so far. It is safe for concurrent use.
func (p *Play) Done() int64 { return p.done.Load() }

// Check tells whether the scenario can begin: not one that begins before the
// present of a simulator in which there is something already.
func (p *Play) Check() error {
	if m := p.sc.start; m != nil && !p.s.empty() && p.start().Before(p.s.opts.Now()) {
		return fmt.Errorf("the scenario begins at %s, before what is there already", p.start().UTC().Format(time.RFC3339))
	}
	return nil
}

// start is when the scenario begins, if it says so.
func (p *Play) start() time.Time {
	if m := p.sc.start; m.ago == 0 {
		return m.at
	}
	return p.s.time.base().Add(-p.sc.start.ago)
}

// Run plays the scenario to its end or until ctx ends, which is no error. With a
// start, the clock is virtual meanwhile, and passes again afterwards.
func (p *Play) Run(ctx context.Context) error {
	if p.sc.start != nil {
		if err := p.s.FreezeClock(p.start()); err != nil {
			return fmt.Errorf("scenario: start: %w", err)
		}
		defer p.s.ReleaseClock()
	}
	p.began = time.Now()
	err := p.run(ctx, p.sc.steps)
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func (p *Play) run(ctx context.Context, steps []step) error {
	for _, st := range steps {
		if err := ctx.Err(); err != nil {
			return err
		}
		if st.cmd == "repeat" {
			for range st.n {
				if err := p.run(ctx, st.body); err != nil {
					return err
				}
			}
			continue
		}
		if err := p.step(ctx, st); err != nil {
			return fmt.Errorf("line %d: %s: %w", st.line, st.cmd, err)
		}
	}
	return nil
}

// pace waits until the next action may come.
func (p *Play) pace(ctx context.Context) error {
	n := p.done.Add(1)
	if p.sc.Rate == 0 {
		return ctx.Err()
	}
	wait := time.Until(p.began.Add(time.Duration(float64(n) / p.sc.Rate * float64(time.Second))))
	if wait <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// pick is a random number of an argument's range, or def without it. The
// arguments have been checked.
func (p *Play) pick(st step, key string, def int64) int64 {
	v, ok := st.args[key]
	if !ok {
		return def
	}
	lo, hi, _ := span(v)
	return lo + p.rng.Int64N(hi-lo+1)
}

func (st step) text(key, def string) string {
	if v, ok := st.args[key]; ok {
		return v
	}
	return def
}

func (st step) duration(key string) time.Duration {
	d, _ := parseDays(st.args[key])
	return d
}

func (p *Play) step(ctx context.Context, st step) error {
	switch st.cmd {
	case "account":
		return p.s.AddAccount(st.name)
	case "price":
		a := p.s.account(st.text("account", ""))
		v := &price{currency: st.text("currency", "usd"), unitAmount: p.pick(st, "unit", 1), intervalCount: 1}
		if st.args["metered"] != "" {
			v.interval, v.usage, v.meter = "month", "metered", orNull("mtr_"+st.name)
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		a.createPrice(a.callerCause(), v)
		p.prices[st.name] = v
		return nil
	case "customers":
		return p.customers(ctx, st)
	case "advance":
		return p.s.AdvanceClock(ctx, st.dur)
	case "now":
		return p.s.AdvanceClock(ctx, max(0, p.s.time.base().Sub(p.s.opts.Now())))
	case "fault":
		f := Fault{Kind: FaultKind(st.name), Count: int(p.pick(st, "count", 0)), Event: st.args["event"], Endpoint: st.args["endpoint"], Delay: Duration(st.duration("delay"))}
		f.Probability, _ = strconv.ParseFloat(st.text("probability", "0"), 64)
		return p.s.faults.add(f)
	case "nofaults":
		return p.s.SetFaults(nil)
	}
	share := 1.0
	if v, ok := st.args["share"]; ok {
		share, _ = strconv.ParseFloat(v, 64)
	}
	for _, m := range p.groups[st.name] {
		if p.rng.Float64() >= share {
			continue
		}
		if err := p.pace(ctx); err != nil {
			return err
		}
		m.a.catchUpUnlessOnRead()
		m.a.mu.Lock()
		if !m.c.gone {
			p.act(st, m)
		}
		m.a.mu.Unlock()
	}
	return nil
}

func (p *Play) customers(ctx context.Context, st step) error {
	p.home[st.name] = st.text("currency", "usd")
	a := p.s.account(st.text("account", ""))
	if a == nil {
		return fmt.Errorf("no account %q", st.args["account"])
	}
	for i := range st.n {
		if err := p.pace(ctx); err != nil {
			return err
		}
		email, name := orNull(fmt.Sprintf("%s%d@example.com", st.name, i+1)), orNull(fmt.Sprintf("%s %d", st.name, i+1))
		a.mu.Lock()
		c := a.createCustomer(a.callerCause(), customerChange{email: &email, name: &name}, nil)
		if n := p.pick(st, "balance", 0); n != 0 {
			a.changeBalance(a.callerCause(), c, BalanceChange{Amount: n, Currency: st.text("currency", "usd"), Type: "adjustment"})
		}
		a.mu.Unlock()
		p.groups[st.name] = append(p.groups[st.name], member{a, c})
	}
	return nil
}

// currency is that of the command, else the customer's, else that of its group.
func (p *Play) currency(st step, c *customer) string {
	cur := st.text("currency", c.currency)
	if cur == "" {
		cur = p.home[st.name]
	}
	return internCurrency(cur)
}

// act does one thing to one customer. What the customer has nothing for, such as
// a void without a grant, is passed over. The account is locked.
func (p *Play) act(st step, m member) {
	a, c, cz := m.a, m.c, m.a.callerCause()
	switch st.cmd {
	case "grant":
		r := grantRequest{
			currency: p.currency(st, c), amount: p.pick(st, "amount", 1), priceType: "metered", category: st.text("category", "paid"),
			priority: p.pick(st, "priority", 50), name: orNull(st.args["name"]),
		}
		if v := st.args["price"]; v != "" {
			r.priceType, r.prices = "", []string{p.prices[v].id}
		}
		if st.args["starts"] != "" {
			at := c.ledgerNow(cz) + ceilSeconds(st.duration("starts"))
			r.effectiveAt = &at
		}
		if st.args["expires"] != "" {
			at := c.ledgerNow(cz) + ceilSeconds(st.duration("expires"))
			r.expiresAt = &at
		}
		_, _ = a.createGrant(cz, c, r) // refused at a hundred unused grants
	case "adjust":
		if n := p.pick(st, "amount", 0); n != 0 {
			a.changeBalance(cz, c, BalanceChange{Amount: n, Currency: p.currency(st, c), Type: st.text("type", "adjustment"), Description: orNull(st.args["description"])})
		}
	case "set":
		n := p.pick(st, "balance", 0)
		a.updateCustomer(cz, c, customerChange{balance: &n})
	case "invoice":
		p.invoice(st, m, cz)
	case "note":
		if inv := newest(c, func(v *invoice) bool { return v.status == statusPaid && v.creditable() > 0 && v.number != nil }); inv != nil {
			n := max(1, inv.creditable()*p.pick(st, "percent", 100)/100)
			if n <= inv.creditable() {
				a.createNote(cz, &creditNote{invoice: inv, amount: n, credit: n, effectiveAt: c.ledgerNow(cz), reason: "order_change"})
			}
		}
	case "void", "expire", "prolong":
		gs := openGrants(c)
		if len(gs) == 0 {
			return
		}
		g := gs[p.rng.IntN(len(gs))]
		switch st.cmd {
		case "void":
			_ = a.voidGrant(cz, g) // refused once it was applied
		case "expire":
			_ = a.expireGrant(cz, g)
		default:
			at := c.ledgerNow(cz) + ceilSeconds(st.duration("by"))
			if g.expiresAt != nil {
				at = *g.expiresAt + ceilSeconds(st.duration("by"))
			}
			_ = a.updateGrant(cz, g, grantUpdate{setExpiry: true, expiresAt: &at, metadata: g.metadata})
		}
	case "pay":
		if inv := newest(c, func(v *invoice) bool { return v.status == statusOpen }); inv != nil {
			a.payInvoice(cz, inv, inv.remaining()+p.pick(st, "over", 0), false)
		}
	case "void_invoice":
		if inv := newest(c, func(v *invoice) bool { return v.status == statusOpen && v.paid == 0 }); inv != nil {
			a.voidInvoice(cz, inv)
		}
	case "edit":
		if n := c.txns.len(); n > 0 {
			t := c.txns.rows[p.rng.IntN(n)]
			a.editBalanceTxn(cz, t, &t.description, map[string]string{"reviewed": fmt.Sprint(p.rng.IntN(1_000_000))})
		}
	case "rename":
		name := orNull(fmt.Sprintf("Renamed %d", p.rng.IntN(1_000_000)))
		a.updateCustomer(cz, c, customerChange{name: &name})
	case "delete":
		a.deleteCustomer(cz, c, true)
	}
}

// newest is the customer's newest invoice that fits.
func newest(c *customer, fits func(*invoice) bool) *invoice {
	for _, inv := range slices.Backward(c.invoices.rows) {
		if !inv.gone && fits(inv) {
			return inv
		}
	}
	return nil
}

func (p *Play) invoice(st step, m member, cz cause) {
	a, c := m.a, m.c
	r := itemRequest{quantity: 1, currency: p.currency(st, c)}
	if v := p.prices[st.args["usage"]]; v != nil {
		if v.currency != r.currency {
			return // billed in another currency than the customer's
		}
		r.price, r.quantity, r.unitAmount = v, p.pick(st, "quantity", 0), v.unitAmount
		r.amount, _ = times(r.unitAmount, r.quantity)
	} else {
		r.amount = p.pick(st, "amount", 0)
		r.unitAmount = r.amount
	}
	inv := a.createInvoice(cz, c, invoiceRequest{currency: r.currency, collection: "charge_automatically"})
	a.createItem(cz, c, inv, r)
	end := st.text("end", "paid")
	if end == "draft" {
		return
	}
	a.finalizeInvoice(cz, inv)
	if inv.status != statusOpen { // nothing was left to pay
		return
	}
	switch end {
	case "paid":
		a.payInvoice(cz, inv, inv.remaining(), false)
	case "overpaid":
		a.payInvoice(cz, inv, inv.remaining()+1+p.rng.Int64N(1000), false)
	case "void":
		a.voidInvoice(cz, inv)
	case "uncollectible":
		a.markUncollectible(cz, inv)
	}
}
