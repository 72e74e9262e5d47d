package stripesim

import (
	"bufio"
	"bytes"
	"cmp"
	"container/heap"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// The state file is JSON Lines: a header, and then one record per object, each
// after those it refers to by id. A record names its kind in its only key, so that
// a reader can pick what it wants with one jq expression.

// stateVersion changes when a file of before can no longer be read.
const stateVersion = 1

type stateHeader struct {
	State    string         `json:"state"` // "creditmirror sim"
	Version  int            `json:"version"`
	Seed     int64          `json:"seed"`
	Clock    clockRecord    `json:"clock"`
	Switches Switches       `json:"switches"`
	Limits   Limits         `json:"limits"`
	Faults   faultsRecord   `json:"faults"`
	Keys     []keyRequest   `json:"keys"`
	Calls    map[string]int `json:"calls"`
	Requests uint64         `json:"requests"`
	Accounts int            `json:"accounts"`
}

const stateName = "creditmirror sim"

type clockRecord struct {
	Now     time.Time `json:"now"`
	Virtual bool      `json:"virtual"`
}

type faultsRecord struct {
	Rules   Faults `json:"rules"`
	Skipped []int  `json:"skipped"`
	Fired   []int  `json:"fired"`
	Random  []byte `json:"random"`
}

// record is one line. Exactly one field is set.
type record struct {
	Account  *accountRecord  `json:"account,omitempty"`
	Price    *priceRecord    `json:"price,omitempty"`
	Clock    *clockObject    `json:"test_clock,omitempty"`
	Customer *customerRecord `json:"customer,omitempty"`
	Txn      *txnRecord      `json:"balance_transaction,omitempty"`
	Grant    *grantRecord    `json:"credit_grant,omitempty"`
	Credit   *creditRecord   `json:"credit_transaction,omitempty"`
	Invoice  *invoiceRecord  `json:"invoice,omitempty"`
	Item     *itemRecord     `json:"invoice_item,omitempty"`
	Note     *noteRecord     `json:"credit_note,omitempty"`
	Hook     *hookRecord     `json:"webhook_endpoint,omitempty"`
	Event    *eventRecord    `json:"event,omitempty"`
	Idem     *idemRecord     `json:"idempotency_key,omitempty"`
	Delivery *deliveryRecord `json:"delivery,omitempty"`
	Log      *LogEntry       `json:"log,omitempty"`
	End      *int            `json:"end,omitempty"` // the number of records: a file without it is cut off
}

type accountRecord struct {
	ID     string `json:"id"`
	Public string `json:"public"`
	Live   bool   `json:"live"`
	Made   uint64 `json:"made"` // ids made so far
	Random []byte `json:"random"`
}

// nodeRecord is a node. Pos keeps the order of rows with equal created.
type nodeRecord struct {
	ID       string       `json:"id"`
	Created  int64        `json:"created"`
	Pos      [slots]int32 `json:"pos"`
	Gone     bool         `json:"gone,omitempty"`
	LagUntil *time.Time   `json:"lag_until,omitempty"`
	LagReads int32        `json:"lag_reads,omitempty"`
}

func recordNode(n *node) nodeRecord {
	r := nodeRecord{ID: n.id, Created: n.created, Pos: n.pos, Gone: n.gone}
	if n.lag != nil {
		r.LagUntil, r.LagReads = &n.lag.until, n.lag.reads.Load()
	}
	return r
}

func (r nodeRecord) node() node {
	n := node{id: r.ID, created: r.Created, pos: r.Pos, gone: r.Gone}
	if r.LagUntil != nil {
		n.lag = &lag{until: *r.LagUntil}
		n.lag.reads.Store(r.LagReads)
	}
	return n
}

type priceRecord struct {
	nodeRecord
	Currency      string            `json:"currency"`
	UnitAmount    int64             `json:"unit_amount"`
	Product       string            `json:"product"`
	Nickname      *string           `json:"nickname,omitempty"`
	Metadata      map[string]string `json:"metadata,omitempty"`
	Inactive      bool              `json:"inactive,omitempty"`
	Interval      string            `json:"interval,omitempty"`
	IntervalCount int64             `json:"interval_count,omitempty"`
	Usage         string            `json:"usage,omitempty"`
	Meter         *string           `json:"meter,omitempty"`
}

type clockObject struct {
	nodeRecord
	Name      *string `json:"name,omitempty"`
	Frozen    int64   `json:"frozen"`
	Target    int64   `json:"target,omitempty"`
	Advancing bool    `json:"advancing,omitempty"`
	Deletes   int64   `json:"deletes"`
}

type customerRecord struct {
	nodeRecord
	Clock       string             `json:"clock,omitempty"`
	Balance     int64              `json:"balance"`
	Currency    string             `json:"currency,omitempty"`
	Email       *string            `json:"email,omitempty"`
	Name        *string            `json:"name,omitempty"`
	Description *string            `json:"description,omitempty"`
	Phone       *string            `json:"phone,omitempty"`
	TaxExempt   string             `json:"tax_exempt"`
	Prefix      string             `json:"invoice_prefix"`
	NextInvoice int64              `json:"next_invoice"`
	Metadata    map[string]string  `json:"metadata,omitempty"`
	Address     *address           `json:"address,omitempty"`
	Langs       []string           `json:"preferred_locales,omitempty"`
	Ends        []currencyEndpoint `json:"ends,omitempty"`
	Card        string             `json:"card,omitempty"`
}

// currencyEndpoint is where the chain of one currency ends.
type currencyEndpoint struct {
	Currency string `json:"currency"`
	Balance  int64  `json:"balance"`
}

type txnRecord struct {
	nodeRecord
	Customer    string            `json:"customer"`
	Amount      int64             `json:"amount"`
	Ending      int64             `json:"ending"`
	Currency    string            `json:"currency"`
	Type        string            `json:"type"`
	Description *string           `json:"description,omitempty"`
	Metadata    map[string]string `json:"metadata,omitempty"`
	Invoice     string            `json:"invoice,omitempty"`
	Note        string            `json:"credit_note,omitempty"`
	Session     string            `json:"checkout_session,omitempty"`
}

type grantRecord struct {
	nodeRecord
	Customer    string            `json:"customer"`
	Currency    string            `json:"currency"`
	Amount      int64             `json:"amount"`
	PriceType   string            `json:"price_type,omitempty"`
	Prices      []string          `json:"prices,omitempty"`
	Category    string            `json:"category"`
	EffectiveAt *int64            `json:"effective_at"`
	ExpiresAt   *int64            `json:"expires_at,omitempty"`
	Metadata    map[string]string `json:"metadata,omitempty"`
	Name        *string           `json:"name,omitempty"`
	Priority    int64             `json:"priority"`
	Updated     int64             `json:"updated"`
	VoidedAt    *int64            `json:"voided_at,omitempty"`
	Granted     bool              `json:"granted"`
	Applied     bool              `json:"applied,omitempty"`
	Expired     bool              `json:"expired,omitempty"`
}

type creditRecord struct {
	nodeRecord
	Grant       string `json:"grant"`
	EffectiveAt int64  `json:"effective_at"`
	Credit      bool   `json:"credit"`
	Type        string `json:"type"`
	Value       int64  `json:"value"`
	Invoice     string `json:"invoice,omitempty"`
	LineItem    string `json:"line_item,omitempty"`
}

type invoiceRecord struct {
	nodeRecord
	Customer      string            `json:"customer"`
	Currency      string            `json:"currency"`
	Status        string            `json:"status"`
	Lines         []lineRecord      `json:"lines,omitempty"`
	Number        *string           `json:"number,omitempty"`
	Description   *string           `json:"description,omitempty"`
	Footer        *string           `json:"footer,omitempty"`
	Statement     *string           `json:"statement_descriptor,omitempty"`
	Metadata      map[string]string `json:"metadata,omitempty"`
	AutoAdvance   bool              `json:"auto_advance,omitempty"`
	Collection    string            `json:"collection_method"`
	DueDate       *int64            `json:"due_date,omitempty"`
	DaysUntilDue  *int64            `json:"days_until_due,omitempty"`
	PeriodStart   int64             `json:"period_start"`
	PeriodEnd     int64             `json:"period_end"`
	Starting      int64             `json:"starting"`
	Ending        int64             `json:"ending"`
	Balance       int64             `json:"balance"`
	Carried       int64             `json:"carried,omitempty"`
	Applied       []string          `json:"applied,omitempty"`
	PrePayment    int64             `json:"pre_payment,omitempty"`
	PostPayment   int64             `json:"post_payment,omitempty"`
	Paid          int64             `json:"paid,omitempty"`
	PaidElsewhere int64             `json:"paid_elsewhere,omitempty"`
	Overpaid      int64             `json:"overpaid,omitempty"`
	Attempts      int64             `json:"attempts,omitempty"`
	FinalizesAt   *int64            `json:"finalizes_at,omitempty"`
	FinalizedAt   *int64            `json:"finalized_at,omitempty"`
	PaidAt        *int64            `json:"paid_at,omitempty"`
	VoidedAt      *int64            `json:"voided_at,omitempty"`
	Uncollectible *int64            `json:"uncollectible_at,omitempty"`
	StandIn       bool              `json:"stand_in,omitempty"`
	Card          string            `json:"card,omitempty"`
}

type lineRecord struct {
	ID          string            `json:"id"`
	Item        string            `json:"item,omitempty"`
	Amount      int64             `json:"amount"`
	Description *string           `json:"description,omitempty"`
	Metadata    map[string]string `json:"metadata,omitempty"`
	Quantity    int64             `json:"quantity"`
	Price       string            `json:"price,omitempty"`
	Metered     bool              `json:"metered,omitempty"`
	Start       int64             `json:"start"`
	End         int64             `json:"end"`
	Applied     []string          `json:"applied,omitempty"`
}

type itemRecord struct {
	nodeRecord
	Customer    string            `json:"customer"`
	Currency    string            `json:"currency"`
	Amount      int64             `json:"amount"`
	UnitAmount  int64             `json:"unit_amount"`
	Quantity    int64             `json:"quantity"`
	Description *string           `json:"description,omitempty"`
	Metadata    map[string]string `json:"metadata,omitempty"`
	Price       string            `json:"price,omitempty"`
	Start       int64             `json:"start"`
	End         int64             `json:"end"`
	Invoice     string            `json:"invoice,omitempty"`
}

type noteRecord struct {
	nodeRecord
	Invoice     string            `json:"invoice"`
	Number      string            `json:"number"`
	Amount      int64             `json:"amount"`
	Pre         int64             `json:"pre"`
	Credit      int64             `json:"credit,omitempty"`
	Refund      int64             `json:"refund,omitempty"`
	OutOfBand   int64             `json:"out_of_band,omitempty"`
	RefundID    string            `json:"refund_id,omitempty"`
	Lines       []noteLineRecord  `json:"lines,omitempty"`
	Memo        *string           `json:"memo,omitempty"`
	Reason      string            `json:"reason,omitempty"`
	Metadata    map[string]string `json:"metadata,omitempty"`
	EffectiveAt int64             `json:"effective_at"`
	Txn         string            `json:"transaction,omitempty"`
	VoidedAt    *int64            `json:"voided_at,omitempty"`
}

type noteLineRecord struct {
	ID          string  `json:"id"`
	InvoiceLine string  `json:"invoice_line,omitempty"`
	Description *string `json:"description,omitempty"`
	Amount      int64   `json:"amount"`
	Unit        int64   `json:"unit,omitempty"`
	Quantity    int64   `json:"quantity,omitempty"`
}

type hookRecord struct {
	nodeRecord
	URL         string            `json:"url"`
	Secrets     []secretRecord    `json:"secrets"`
	Enabled     []string          `json:"enabled_events"`
	Version     *string           `json:"api_version,omitempty"`
	Connect     bool              `json:"connect,omitempty"`
	Disabled    bool              `json:"disabled,omitempty"`
	Description *string           `json:"description,omitempty"`
	Metadata    map[string]string `json:"metadata,omitempty"`
	V2          bool              `json:"v2,omitempty"`
	Thin        bool              `json:"thin,omitempty"`
	Name        string            `json:"name,omitempty"`
	From        []string          `json:"events_from,omitempty"`
	Updated     int64             `json:"updated,omitempty"`
	Stats       [4]int64          `json:"stats"` // attempts, delivered, failed, abandoned
}

type secretRecord struct {
	Text  string `json:"text"`
	Until int64  `json:"until,omitempty"`
}

type eventRecord struct {
	nodeRecord
	Type     string                     `json:"type"`
	Customer string                     `json:"customer,omitempty"`
	Object   json.RawMessage            `json:"object"`
	Previous map[string]json.RawMessage `json:"previous,omitempty"`
	Request  string                     `json:"request,omitempty"`
	IdemKey  string                     `json:"idempotency_key,omitempty"`
	Pending  int32                      `json:"pending,omitempty"`
	Thin     *thinOnly                  `json:"thin,omitempty"`
}

type idemRecord struct {
	Key    string      `json:"key"`
	Print  []byte      `json:"print"`
	At     time.Time   `json:"at"`
	Status int         `json:"status"`
	Header http.Header `json:"header,omitempty"`
	Body   []byte      `json:"body"`
}

type deliveryRecord struct {
	Event   string    `json:"event"`
	Target  string    `json:"endpoint"`
	Account string    `json:"account,omitempty"`
	Tried   int       `json:"tried"`
	Due     time.Time `json:"due"`
	Arrived bool      `json:"arrived,omitempty"`
}

// Save writes the whole state. It is one moment's: nothing changes meanwhile.
func (s *Server) Save(w io.Writer) error {
	buf := bufio.NewWriterSize(w, 1<<16)
	enc := json.NewEncoder(buf)
	enc.SetEscapeHTML(false)
	accounts := s.allAccounts()
	for _, a := range accounts {
		a.mu.RLock()
		defer a.mu.RUnlock()
	}
	if err := enc.Encode(s.header(len(accounts))); err != nil {
		return fmt.Errorf("save: %w", err)
	}
	n := 0
	var failed error
	put := func(r record) {
		if failed == nil {
			n++
			failed = enc.Encode(r)
		}
	}
	for _, a := range accounts {
		a.save(put)
	}
	for _, e := range s.journal.newest(s.opts.LogSize) {
		put(record{Log: &e})
	}
	total := n
	put(record{End: &total})
	if failed == nil {
		failed = buf.Flush()
	}
	if failed != nil {
		return fmt.Errorf("save: %w", failed)
	}
	return nil
}

func (s *Server) header(accounts int) stateHeader {
	s.reqMu.Lock()
	requests := s.reqIDs.n
	s.reqMu.Unlock()
	s.keys.mu.RLock()
	defer s.keys.mu.RUnlock()
	var keys []keyRequest
	for _, k := range slices.Sorted(maps.Keys(s.keys.state)) {
		keys = append(keys, keyRequest{k, s.keys.state[k], s.keys.deny[k]})
	}
	c := s.Clock()
	return stateHeader{
		State: stateName, Version: stateVersion, Seed: s.seed.Load(), Clock: clockRecord{c.Now, c.Virtual}, Switches: s.Switches(),
		Limits: *s.limits.Load(), Faults: s.faults.record(), Keys: keys, Calls: s.calls.get(), Requests: requests, Accounts: accounts,
	}
}

func (s *faultState) record() faultsRecord {
	s.mu.Lock()
	defer s.mu.Unlock()
	random, _ := s.pcg.MarshalBinary() // never fails
	return faultsRecord{slices.Clone(s.rules), slices.Clone(s.skip), slices.Clone(s.fired), random}
}

func idOf[T listed](v T, none bool) string {
	if none {
		return ""
	}
	return v.row().id
}

func txnIDs(rows []*creditTxn) []string {
	var out []string
	for _, t := range rows {
		out = append(out, t.id)
	}
	return out
}

// save puts the account's records, each after those it refers to. The caller
// holds the account's lock.
func (a *account) save(put func(record)) {
	random, _ := a.pcg.MarshalBinary() // never fails
	put(record{Account: &accountRecord{a.id, a.public, a.live, a.ids.n, random}})
	for _, p := range a.priceList.rows {
		put(record{Price: &priceRecord{
			recordNode(&p.node), p.currency, p.unitAmount, p.product, p.nickname, p.metadata, p.inactive, p.interval, p.intervalCount, p.usage, p.meter,
		}})
	}
	for _, k := range a.clockList.rows {
		put(record{Clock: &clockObject{recordNode(&k.node), k.name, k.frozen, k.target, k.advancing, k.deletes}})
	}
	for c := range a.eachCustomer() {
		r := customerRecord{
			nodeRecord: recordNode(&c.node), Clock: idOf(c.clock, c.clock == nil), Balance: c.balance, Currency: c.currency, Email: c.email, Name: c.name,
			Description: c.description, Phone: c.phone, TaxExempt: c.taxExempt, Prefix: c.invoicePrefix, NextInvoice: c.nextInvoice,
			Metadata: c.metadata, Address: c.address, Langs: c.preferredLangs, Card: c.card,
		}
		for _, e := range c.ends {
			r.Ends = append(r.Ends, currencyEndpoint{e.currency, e.balance})
		}
		put(record{Customer: &r})
		for _, t := range c.txns.rows {
			put(record{Txn: &txnRecord{
				recordNode(&t.node), c.id, t.amount, t.ending, t.currency, t.typ, t.description, t.metadata, t.invoice, t.creditNote, t.checkoutSession,
			}})
		}
		for _, g := range c.grants.rows {
			put(record{Grant: &grantRecord{
				recordNode(&g.node), c.id, g.currency, g.amount, g.priceType, g.prices, g.category, g.effectiveAt, g.expiresAt, g.metadata,
				g.name, g.priority, g.updated, g.voidedAt, g.granted, g.applied, g.expired,
			}})
		}
		for _, t := range c.credits.rows {
			put(record{Credit: &creditRecord{recordNode(&t.node), t.grant.id, t.effectiveAt, t.credit, t.typ, t.value, t.invoice, t.lineItem}})
		}
	}
	for _, inv := range a.invoiceList.rows {
		r := invoiceRecord{
			recordNode(&inv.node), inv.customer.id, inv.currency, inv.status, nil, inv.number, inv.description, inv.footer, inv.statement, inv.metadata,
			inv.autoAdvance, inv.collection, inv.dueDate, inv.daysUntilDue, inv.periodStart, inv.periodEnd, inv.starting, inv.ending, inv.balance,
			inv.carried, txnIDs(inv.applied), inv.prePayment, inv.postPayment, inv.paid, inv.paidElsewhere, inv.overpaid, inv.attempts,
			inv.finalizesAt, inv.finalizedAt, inv.paidAt, inv.voidedAt, inv.uncollectibleAt, inv.standIn, inv.card,
		}
		for _, l := range inv.lines {
			r.Lines = append(r.Lines, lineRecord{
				l.id, idOf(l.item, l.item == nil), l.amount, l.description, l.metadata, l.quantity, l.priceID, l.metered, l.start, l.end, txnIDs(l.applied),
			})
		}
		put(record{Invoice: &r})
	}
	for _, it := range a.itemList.rows {
		put(record{Item: &itemRecord{
			recordNode(&it.node), it.customer.id, it.currency, it.amount, it.unitAmount, it.quantity, it.description, it.metadata,
			idOf(it.price, it.price == nil), it.start, it.end, idOf(it.invoice, it.invoice == nil),
		}})
	}
	for _, n := range a.noteList.rows {
		r := noteRecord{
			recordNode(&n.node), n.invoice.id, n.number, n.amount, n.pre, n.credit, n.refund, n.outOfBand, n.refundID, nil, n.memo, n.reason,
			n.metadata, n.effectiveAt, n.txn, n.voidedAt,
		}
		for _, l := range n.lines {
			r.Lines = append(r.Lines, noteLineRecord{l.id, l.invoiceLine, l.description, l.amount, l.unit, l.quantity})
		}
		put(record{Note: &r})
	}
	for _, h := range a.hookList.rows {
		r := hookRecord{
			nodeRecord: recordNode(&h.node), URL: h.url, Enabled: h.enabled, Version: h.version, Connect: h.connect, Disabled: h.disabled,
			Description: h.description, Metadata: h.metadata, V2: h.v2, Thin: h.thin, Name: h.name, From: h.from, Updated: h.updated, Stats: a.s.sender.counts(h.id),
		}
		for _, x := range h.secrets {
			r.Secrets = append(r.Secrets, secretRecord{x.text, x.until})
		}
		put(record{Hook: &r})
	}
	deliveries, pending := a.s.sender.of(a)
	for _, e := range a.eventList.rows {
		r := eventRecord{
			nodeRecord: recordNode(&e.node), Type: e.typ, Customer: e.customer, Object: mustMarshal(e.object), Request: e.requestID,
			IdemKey: e.idemKey, Pending: e.pending.Load(), Thin: e.thin,
		}
		if n, moving := pending[e]; moving {
			r.Pending = n
		}
		if e.previous != nil {
			r.Previous = map[string]json.RawMessage{}
			for k, v := range e.previous {
				r.Previous[k] = mustMarshal(v)
			}
		}
		put(record{Event: &r})
	}
	for _, e := range a.idem.done() {
		put(record{Idem: &idemRecord{e.key, e.print[:], e.at, e.reply.status, e.reply.header, e.reply.body}})
	}
	for _, v := range deliveries {
		put(record{Delivery: &v})
	}
}

// eachCustomer goes through all customers, those on test clocks after the others.
func (a *account) eachCustomer() func(func(*customer) bool) {
	return func(yield func(*customer) bool) {
		for _, c := range a.customerList.rows {
			if !yield(c) {
				return
			}
		}
		for _, k := range a.clockList.rows {
			for _, c := range k.customers.rows {
				if !yield(c) {
					return
				}
			}
		}
	}
}

// done are the entries that have a reply, oldest first.
func (st *idemStore) done() []*idemEntry {
	st.mu.Lock()
	defer st.mu.Unlock()
	var out []*idemEntry
	for _, e := range st.byAge {
		if e.reply != nil && st.entries[e.key] == e {
			out = append(out, e)
		}
	}
	return out
}

func (d *sender) counts(id string) [4]int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	if q := d.queues[id]; q != nil {
		return [4]int64{q.sent, q.delivered, q.failed, q.abandoned}
	}
	return [4]int64{}
}

// of are the deliveries of an account that are neither done nor given up, in a
// fixed order, and the pending counts of their events at the same moment.
func (d *sender) of(a *account) ([]deliveryRecord, map[*event]int32) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []deliveryRecord
	pending := map[*event]int32{}
	for v := range d.live {
		if v.a == a {
			pending[v.e] = v.e.pending.Load()
			out = append(out, deliveryRecord{v.e.id, v.target, v.account, v.tried, v.due, v.arrived.Load()})
		}
	}
	slices.SortFunc(out, func(x, y deliveryRecord) int {
		return cmp.Or(x.Due.Compare(y.Due), cmp.Compare(x.Event, y.Event), cmp.Compare(x.Target, y.Target))
	})
	return out, pending
}

// ErrState is what Load answers to a file that is not a whole state.
var ErrState = errors.New("not a state of this simulator")

// Load puts a saved state in the place of everything there is. With an error,
// nothing has changed.
func (s *Server) Load(r io.Reader) error {
	dec := json.NewDecoder(bufio.NewReaderSize(r, 1<<16))
	var h stateHeader
	if err := dec.Decode(&h); err != nil || h.State != stateName {
		return fmt.Errorf("load: %w", ErrState)
	}
	if h.Version != stateVersion {
		return fmt.Errorf("load: %w: it is of version %d, this one reads %d", ErrState, h.Version, stateVersion)
	}
	if err := errors.Join(h.Switches.fill(), h.Limits.validate(), h.Faults.Rules.validate()); err != nil {
		return fmt.Errorf("load: %w: %w", ErrState, err)
	}
	if len(h.Faults.Skipped) != len(h.Faults.Rules) || len(h.Faults.Fired) != len(h.Faults.Rules) {
		return fmt.Errorf("load: %w: the faults' counters do not fit", ErrState)
	}
	ld := &loader{s: s, seed: h.Seed, worlds: map[world]*account{}}
	for {
		var rec record
		if err := dec.Decode(&rec); err != nil {
			return fmt.Errorf("load: %w: after %d records: %w", ErrState, ld.n, err)
		}
		if rec.End != nil {
			if *rec.End != ld.n || len(ld.worlds) != h.Accounts {
				return fmt.Errorf("load: %w: records are missing", ErrState)
			}
			break
		}
		ld.n++
		if err := errors.Join(ld.take(rec), ld.bad); err != nil {
			return fmt.Errorf("load: %w: record %d: %w", ErrState, ld.n, err)
		}
	}
	if ld.worlds[world{"", s.opts.Livemode}] == nil {
		return fmt.Errorf("load: %w: no platform account in this mode", ErrState)
	}
	if err := ld.finish(); err != nil {
		return fmt.Errorf("load: %w: %w", ErrState, err)
	}
	ld.install(h)
	return nil
}

// loader rebuilds accounts from records.
type loader struct {
	s      *Server
	seed   int64
	n      int
	worlds map[world]*account
	a      *account // the one that records belong to
	lines  map[string]*line
	hooks  []hookStats
	sends  []*delivery
	log    []LogEntry
	bad    error // what is wrong with a value of the record at hand
}

type hookStats struct {
	id    string
	stats [4]int64
}

func missing(kind, id string) error { return fmt.Errorf("no %s %q", kind, id) }

// keep puts an object in the map of its kind, where none has its id yet.
func keep[T listed](ld *loader, m map[string]T, v T) {
	id := v.row().id
	if _, twice := m[id]; twice || id == "" {
		ld.bad = fmt.Errorf("the id %q, which is empty or taken", id)
	}
	m[id] = v
}

func (ld *loader) currency(code string) string {
	if !isCurrency(code) {
		ld.bad = fmt.Errorf("the currency %q, which is none", code)
	}
	return internCurrency(code)
}

func (ld *loader) take(rec record) error {
	if rec.Account == nil && rec.Log == nil && ld.a == nil {
		return errors.New("no account before it")
	}
	a := ld.a
	switch {
	case rec.Account != nil:
		return ld.account(rec.Account)
	case rec.Price != nil:
		r := rec.Price
		p := &price{r.node(), ld.currency(r.Currency), r.UnitAmount, r.Product, r.Nickname, r.Metadata, r.Inactive, r.Interval, r.IntervalCount, r.Usage, r.Meter}
		keep(ld, a.prices, p)
		a.priceList.rows = append(a.priceList.rows, p)
	case rec.Clock != nil:
		r := rec.Clock
		k := &clock{
			node: r.node(), name: r.Name, frozen: r.Frozen, target: r.Target, advancing: r.Advancing, deletes: r.Deletes,
			customers: ordered[*customer]{slot: slotOwner},
		}
		keep(ld, a.clocks, k)
		a.clockList.rows = append(a.clockList.rows, k)
	case rec.Customer != nil:
		return ld.customer(rec.Customer)
	case rec.Txn != nil:
		r := rec.Txn
		c := a.customers[r.Customer]
		if c == nil {
			return missing("customer", r.Customer)
		}
		t := &balanceTxn{
			node: r.node(), customer: c, amount: r.Amount, ending: r.Ending, currency: ld.currency(r.Currency), typ: r.Type, description: r.Description,
			metadata: r.Metadata, invoice: r.Invoice, creditNote: r.Note, checkoutSession: r.Session,
		}
		keep(ld, a.txns, t)
		c.txns.rows = append(c.txns.rows, t)
	case rec.Grant != nil:
		return ld.grant(rec.Grant)
	case rec.Credit != nil:
		return ld.credit(rec.Credit)
	case rec.Invoice != nil:
		return ld.invoice(rec.Invoice)
	case rec.Item != nil:
		return ld.item(rec.Item)
	case rec.Note != nil:
		return ld.note(rec.Note)
	case rec.Hook != nil:
		r := rec.Hook
		h := &hook{
			node: r.node(), url: r.URL, enabled: r.Enabled, version: r.Version, connect: r.Connect, disabled: r.Disabled, description: r.Description, metadata: r.Metadata,
			v2: r.V2, thin: r.Thin, name: r.Name, from: r.From, updated: r.Updated,
		}
		if len(r.Secrets) == 0 {
			return errors.New("a webhook endpoint without a secret")
		}
		for _, x := range r.Secrets {
			h.secrets = append(h.secrets, signSecret{x.Text, x.Until})
		}
		keep(ld, a.hooks, h)
		a.hookList.rows = append(a.hookList.rows, h)
		ld.hooks = append(ld.hooks, hookStats{h.id, r.Stats})
	case rec.Event != nil:
		r := rec.Event
		e := &event{node: r.node(), typ: r.Type, customer: r.Customer, object: r.Object, requestID: r.Request, idemKey: r.IdemKey, thin: r.Thin}
		if r.Previous != nil {
			e.previous = map[string]any{}
			for k, v := range r.Previous {
				e.previous[k] = v
			}
		}
		e.pending.Store(r.Pending)
		keep(ld, a.events, e)
		a.eventList.rows = append(a.eventList.rows, e)
	case rec.Idem != nil:
		r := rec.Idem
		e := &idemEntry{key: r.Key, at: r.At, reply: &reply{status: r.Status, header: r.Header, body: r.Body}}
		copy(e.print[:], r.Print)
		a.idem.entries[e.key] = e
		a.idem.byAge = append(a.idem.byAge, e)
	case rec.Delivery != nil:
		r := rec.Delivery
		e := a.events[r.Event]
		if e == nil { // the event list had forgotten it
			return nil
		}
		v := &delivery{a: a, e: e, target: r.Target, account: r.Account, tried: r.Tried, due: r.Due, arrived: newFlag(r.Arrived)}
		ld.sends = append(ld.sends, v)
	case rec.Log != nil:
		ld.log = append(ld.log, *rec.Log)
	default:
		return errors.New("of no known kind")
	}
	return nil
}

// finish ends the account at hand: every item that a line names must have come.
func (ld *loader) finish() error {
	for item, l := range ld.lines {
		if l.item == nil {
			return missing("invoice item", item)
		}
	}
	return nil
}

func (ld *loader) account(r *accountRecord) error {
	if err := ld.finish(); err != nil {
		return err
	}
	if ld.worlds[world{r.ID, r.Live}] != nil {
		return fmt.Errorf("the account %q a second time", r.ID)
	}
	a := newAccount(ld.s, r.ID, r.Live)
	a.public = r.Public
	a.ids = newIDMaker(ld.seed, a.scope, r.Live)
	a.ids.n = r.Made
	if err := a.pcg.UnmarshalBinary(r.Random); err != nil {
		return err
	}
	ld.a, ld.lines = a, map[string]*line{}
	ld.worlds[world{a.id, a.live}] = a
	return nil
}

func (ld *loader) customer(r *customerRecord) error {
	a := ld.a
	c := &customer{
		node: r.node(), txns: ordered[*balanceTxn]{slot: slotOwner}, grants: ordered[*grant]{slot: slotOwner}, credits: ordered[*creditTxn]{slot: slotOwner},
		invoices: ordered[*invoice]{slot: slotOwner}, items: ordered[*invoiceItem]{slot: slotOwner},
		profile: profile{
			r.Balance, "", r.Email, r.Name, r.Description, r.Phone, r.TaxExempt, r.Prefix, r.NextInvoice, r.Metadata, r.Address, r.Langs, r.Card,
		},
	}
	if r.Currency != "" {
		c.currency = ld.currency(r.Currency)
	}
	for _, e := range r.Ends {
		c.ends = append(c.ends, currencyBalance{ld.currency(e.Currency), e.Balance})
	}
	keep(ld, a.customers, c)
	if r.Clock != "" {
		if c.clock = a.clocks[r.Clock]; c.clock == nil {
			return missing("test clock", r.Clock)
		}
		c.clock.customers.rows = append(c.clock.customers.rows, c)
	} else {
		a.customerList.rows = append(a.customerList.rows, c)
	}
	if !c.gone {
		a.indexEmail(nil, c.email, c)
	}
	return nil
}

func (ld *loader) grant(r *grantRecord) error {
	a := ld.a
	c := a.customers[r.Customer]
	switch {
	case c == nil:
		return missing("customer", r.Customer)
	case r.EffectiveAt == nil:
		return errors.New("a grant without effective_at")
	}
	g := &grant{
		node: r.node(), customer: c, currency: ld.currency(r.Currency), amount: r.Amount, priceType: r.PriceType, prices: r.Prices, category: r.Category,
		effectiveAt: r.EffectiveAt, expiresAt: r.ExpiresAt, metadata: r.Metadata, name: r.Name, priority: r.Priority, updated: r.Updated,
		voidedAt: r.VoidedAt, granted: r.Granted, applied: r.Applied, expired: r.Expired, txns: ordered[*creditTxn]{slot: slotGrant},
	}
	keep(ld, a.grants, g)
	a.grantList.rows = append(a.grantList.rows, g)
	c.grants.rows = append(c.grants.rows, g)
	return nil
}

func (ld *loader) credit(r *creditRecord) error {
	a := ld.a
	g := a.grants[r.Grant]
	if g == nil {
		return missing("credit grant", r.Grant)
	}
	t := &creditTxn{
		node: r.node(), grant: g, effectiveAt: r.EffectiveAt, credit: r.Credit, typ: r.Type, value: r.Value, invoice: r.Invoice, lineItem: r.LineItem,
	}
	if t.credit {
		g.remaining += t.value
	} else {
		g.remaining -= t.value
	}
	keep(ld, a.credits, t)
	a.creditList.rows = append(a.creditList.rows, t)
	g.customer.credits.rows = append(g.customer.credits.rows, t)
	g.txns.rows = append(g.txns.rows, t)
	return nil
}

func (ld *loader) used(ids []string) ([]*creditTxn, error) {
	var out []*creditTxn
	for _, id := range ids {
		t := ld.a.credits[id]
		if t == nil {
			return nil, missing("credit balance transaction", id)
		}
		out = append(out, t)
	}
	return out, nil
}

func (ld *loader) invoice(r *invoiceRecord) error {
	a := ld.a
	c := a.customers[r.Customer]
	if c == nil {
		return missing("customer", r.Customer)
	}
	inv := &invoice{
		node: r.node(), customer: c, currency: ld.currency(r.Currency), status: r.Status, number: r.Number, description: r.Description,
		footer: r.Footer, statement: r.Statement, metadata: r.Metadata, autoAdvance: r.AutoAdvance, collection: r.Collection, dueDate: r.DueDate,
		daysUntilDue: r.DaysUntilDue, periodStart: r.PeriodStart, periodEnd: r.PeriodEnd, starting: r.Starting, ending: r.Ending,
		balance: r.Balance, carried: r.Carried, prePayment: r.PrePayment, postPayment: r.PostPayment, paid: r.Paid,
		paidElsewhere: r.PaidElsewhere, overpaid: r.Overpaid, attempts: r.Attempts, finalizesAt: r.FinalizesAt, finalizedAt: r.FinalizedAt,
		paidAt: r.PaidAt, voidedAt: r.VoidedAt, uncollectibleAt: r.Uncollectible, standIn: r.StandIn, card: r.Card,
	}
	var err error
	if inv.applied, err = ld.used(r.Applied); err != nil {
		return err
	}
	for _, x := range r.Lines {
		l := &line{
			id: x.ID, amount: x.Amount, description: x.Description, metadata: x.Metadata, quantity: x.Quantity, price: a.prices[x.Price],
			priceID: x.Price, metered: x.Metered, start: x.Start, end: x.End,
		}
		if l.applied, err = ld.used(x.Applied); err != nil {
			return err
		}
		if x.Item != "" {
			ld.lines[x.Item] = l
		}
		inv.lines = append(inv.lines, l)
	}
	keep(ld, a.invoices, inv)
	a.invoiceList.rows = append(a.invoiceList.rows, inv)
	c.invoices.rows = append(c.invoices.rows, inv)
	return nil
}

func (ld *loader) item(r *itemRecord) error {
	a := ld.a
	c := a.customers[r.Customer]
	if c == nil {
		return missing("customer", r.Customer)
	}
	it := &invoiceItem{
		node: r.node(), customer: c, currency: ld.currency(r.Currency), amount: r.Amount, unitAmount: r.UnitAmount, quantity: r.Quantity,
		description: r.Description, metadata: r.Metadata, price: a.prices[r.Price], start: r.Start, end: r.End,
	}
	if r.Invoice != "" {
		it.invoice, it.line = a.invoices[r.Invoice], ld.lines[it.id]
		if it.invoice == nil || it.line == nil {
			return missing("invoice with the line of the item", r.Invoice)
		}
		it.line.item = it
	}
	keep(ld, a.items, it)
	a.itemList.rows = append(a.itemList.rows, it)
	c.items.rows = append(c.items.rows, it)
	return nil
}

func (ld *loader) note(r *noteRecord) error {
	a := ld.a
	inv := a.invoices[r.Invoice]
	switch {
	case inv == nil:
		return missing("invoice", r.Invoice)
	case r.Txn != "" && a.txns[r.Txn] == nil:
		return missing("balance transaction", r.Txn)
	}
	n := &creditNote{
		node: r.node(), invoice: inv, number: r.Number, amount: r.Amount, pre: r.Pre, credit: r.Credit, refund: r.Refund, outOfBand: r.OutOfBand,
		refundID: r.RefundID, memo: r.Memo, reason: r.Reason, metadata: r.Metadata, effectiveAt: r.EffectiveAt, txn: r.Txn, voidedAt: r.VoidedAt,
	}
	for _, l := range r.Lines {
		n.lines = append(n.lines, noteLine{l.ID, l.InvoiceLine, l.Description, l.Amount, l.Unit, l.Quantity})
	}
	keep(ld, a.notes, n)
	a.noteList.rows = append(a.noteList.rows, n)
	inv.notes = append(inv.notes, n)
	return nil
}

// restore puts the rows into the order of their positions, and counts them anew.
func restore[T listed](l *ordered[T]) {
	slices.SortFunc(l.rows, func(x, y T) int { return cmp.Compare(x.row().pos[l.slot], y.row().pos[l.slot]) })
	for i, v := range l.rows {
		v.row().pos[l.slot] = int32(i)
	}
}

// restore finishes a loaded account: the order of its lists, the counts, and what
// is due.
func (a *account) restore() {
	restore(&a.customerList)
	restore(&a.grantList)
	restore(&a.creditList)
	restore(&a.eventList)
	restore(&a.clockList)
	restore(&a.hookList)
	restore(&a.invoiceList)
	restore(&a.itemList)
	restore(&a.noteList)
	restore(&a.priceList)
	for _, k := range a.clockList.rows {
		restore(&k.customers)
	}
	for _, c := range a.customers {
		restore(&c.txns)
		restore(&c.grants)
		restore(&c.credits)
		restore(&c.invoices)
		restore(&c.items)
	}
	for _, g := range a.grantList.rows {
		restore(&g.txns)
		g.recount()
		if g.open() {
			a.schedule(g)
		}
	}
	for _, inv := range a.invoiceList.rows {
		if inv.finalizesAt != nil && !inv.gone {
			a.scheduleInvoice(inv)
		}
	}
	heap.Init(&a.due)
	a.noteDue()
}

// complete adds the second mode of accounts that were saved with one.
func (ld *loader) complete() {
	for w, a := range maps.Clone(ld.worlds) {
		other := world{w.id, !w.live}
		if ld.worlds[other] == nil {
			twin := newAccount(ld.s, w.id, other.live)
			twin.public = a.public
			ld.worlds[other] = twin
		}
	}
}

// install puts the loaded accounts in force.
func (ld *loader) install(h stateHeader) {
	s := ld.s
	s.sender.forget()
	s.seed.Store(h.Seed)
	s.sw.Store(&h.Switches)
	if s.opts.BothModes {
		ld.complete()
	}
	for _, a := range ld.worlds { // with the switches that say when grants expire
		a.restore()
	}
	s.limits.Store(&h.Limits)
	s.faults.restore(h.Faults)
	s.keys.restore(h.Keys)
	s.calls.restore(h.Calls)
	s.journal.restore(ld.log)
	s.reqMu.Lock()
	s.reqIDs = newIDMaker(h.Seed, "requests", s.opts.Livemode)
	s.reqIDs.n = h.Requests
	s.reqMu.Unlock()
	s.time.restore(h.Clock)
	s.accountsMu.Lock()
	s.accounts = ld.worlds
	s.accountsMu.Unlock()
	for _, a := range s.allAccounts() {
		a.mu.Lock()
		for _, k := range a.hookList.rows {
			if !k.gone {
				a.publish(k)
			}
		}
		for _, k := range a.clockList.rows {
			if k.advancing {
				s.later(0, func() { a.endAdvance(k) })
			}
		}
		a.mu.Unlock()
	}
	for _, x := range ld.hooks {
		s.sender.setCounts(x.id, x.stats)
	}
	now := s.opts.Now()
	for _, v := range ld.sends {
		s.sender.start(v, max(0, v.due.Sub(now)))
	}
}

func (d *sender) setCounts(id string, n [4]int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if q := d.queues[id]; q != nil {
		q.sent, q.delivered, q.failed, q.abandoned = n[0], n[1], n[2], n[3]
	}
}

func (s *faultState) restore(r faultsRecord) {
	s.set(r.Rules)
	s.mu.Lock()
	defer s.mu.Unlock()
	copy(s.skip, r.Skipped)
	copy(s.fired, r.Fired)
	_ = s.pcg.UnmarshalBinary(r.Random) // a file without it begins anew by the seed
}

func (k *keyring) restore(keys []keyRequest) {
	k.mu.Lock()
	defer k.mu.Unlock()
	clear(k.state)
	clear(k.deny)
	for _, r := range keys {
		k.state[r.Key], k.deny[r.Key] = r.State, r.Deny
	}
}

func (c *callCounts) restore(n map[string]int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n = maps.Clone(n)
}

func (j *journal) restore(rows []LogEntry) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.seq, j.rows = 0, nil
	if n := len(rows); n > 0 && j.size > 0 {
		j.rows, j.seq = rows, rows[n-1].Seq
	}
}

// restore sets the clock. The timers of before are dropped; a real clock that was
// behind keeps its distance.
func (s *simTime) restore(r clockRecord) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.timers {
		if t.wall != nil {
			t.wall.Stop()
		}
		t.at = -1
	}
	s.timers = nil
	s.virtual = r.Virtual
	if r.Virtual {
		s.at = r.Now
	} else if ahead := r.Now.Sub(s.base()); ahead > s.offset {
		s.offset = ahead // rows must not lie in the future
	}
}

// SaveFile writes the state to a file, whole or not at all.
func (s *Server) SaveFile(name string) error {
	f, err := os.CreateTemp(filepath.Dir(name), filepath.Base(name)+".*")
	if err != nil {
		return fmt.Errorf("save: %w", err)
	}
	err = s.Save(f)
	if e := f.Sync(); err == nil {
		err = e
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return fmt.Errorf("save %s: %w", name, err)
	}
	return nil
}

// LoadFile loads a file that SaveFile wrote.
func (s *Server) LoadFile(name string) error {
	f, err := os.Open(name) // #nosec G304 -- the path is the user's
	if err != nil {
		return fmt.Errorf("load: %w", err)
	}
	defer f.Close()
	if err := s.Load(f); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// stateBytes is Save into memory, for the control API, which must know of an
// error before it writes a status.
func (s *Server) stateBytes() ([]byte, error) {
	var b bytes.Buffer
	err := s.Save(&b)
	return b.Bytes(), err
}
