package stripesim

import (
	"cmp"
	"slices"
	"sync"
)

// LogEntry is one thing that really happened, whether or not an event announced it.
type LogEntry struct {
	// Seq counts entries from 1, in the order in which things happened.
	Seq int64 `json:"seq"`
	// At is the simulated time in Unix seconds.
	At      int64  `json:"at"`
	Account string `json:"account"` // "" is the platform
	// What is customer.created, customer.changed, customer.deleted,
	// balance_transaction.created, balance_transaction.edited, grant.created,
	// grant.changed, credit_transaction.created, event.sent, event.lost,
	// event.twice, or fault.<kind>.
	What     string `json:"what"`
	ID       string `json:"id"` // the object, the event, or the named endpoint
	Customer string `json:"customer,omitempty"`
	// Detail is the type of a transaction or event.
	Detail string `json:"detail,omitempty"`
	// Amount is signed as the ledger has it, in the currency's smallest unit.
	Amount   int64  `json:"amount,omitempty"`
	Currency string `json:"currency,omitempty"`
	Request  string `json:"request,omitempty"` // Request-Id; "" for Stripe's own doing
}

// journal keeps the newest entries, at least size of them. Its lock is a leaf.
type journal struct {
	mu   sync.Mutex
	size int
	seq  int64
	rows []LogEntry // by Seq
}

func (j *journal) add(e LogEntry) {
	if j.size <= 0 {
		return
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.seq++
	e.Seq = j.seq
	if len(j.rows) >= 2*j.size { // now and then, so that it costs nothing
		j.rows = slices.Clone(j.rows[j.size:])
	}
	j.rows = append(j.rows, e)
}

func (j *journal) reset() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.seq, j.rows = 0, nil
}

// after returns up to limit entries that come after seq, oldest first.
func (j *journal) after(seq int64, limit int) []LogEntry {
	j.mu.Lock()
	defer j.mu.Unlock()
	i, _ := slices.BinarySearchFunc(j.rows, seq+1, func(e LogEntry, seq int64) int { return cmp.Compare(e.Seq, seq) })
	rows := j.rows[i:]
	return slices.Clone(rows[:min(max(0, limit), len(rows))])
}

// newest returns the last n entries, oldest first.
func (j *journal) newest(n int) []LogEntry {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Clone(j.rows[max(0, len(j.rows)-max(0, n)):])
}

// Log returns up to limit entries of what really happened after the entry seq,
// oldest first. The newest Options.LogSize are kept.
func (s *Server) Log(seq int64, limit int) []LogEntry { return s.journal.after(seq, limit) }

// log notes a change, unless it belongs to a seeded history.
func (a *account) log(cz cause, what, id, customer, detail string) {
	if !cz.silent {
		a.s.journal.add(LogEntry{At: cz.now, Account: a.id, What: what, ID: id, Customer: customer, Detail: detail, Request: cz.requestID})
	}
}

// logAmount is log for a transaction.
func (a *account) logAmount(cz cause, what, id, customer, detail string, amount int64, currency string) {
	if !cz.silent {
		a.s.journal.add(LogEntry{
			At: cz.now, Account: a.id, What: what, ID: id, Customer: customer, Detail: detail, Amount: amount, Currency: currency, Request: cz.requestID,
		})
	}
}

// Attempt is one webhook request, or one delivery that a fault swallowed.
type Attempt struct {
	At       int64  `json:"at"` // simulated time, Unix seconds
	Event    string `json:"event"`
	Type     string `json:"type"`
	Account  string `json:"account"`
	Endpoint string `json:"endpoint"`
	// Number counts the attempts for this event and endpoint from 1, for each
	// redelivery anew; 0 was never sent.
	Number int `json:"number"`
	// Status is the HTTP status of the answer, 0 if there was none.
	Status int `json:"status"`
	// Answer is the beginning of the answer's body.
	Answer string `json:"answer,omitempty"`
	Error  string `json:"error,omitempty"`
}

// attemptsKept bounds the memory that finished attempts take.
const attemptsKept = 10_000

// attemptLog keeps the newest attempts.
type attemptLog struct {
	mu   sync.Mutex
	rows []Attempt
	next int // where the ring goes on once it is full
}

func (l *attemptLog) add(a Attempt) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.rows) < attemptsKept {
		l.rows = append(l.rows, a)
		return
	}
	l.rows[l.next] = a
	l.next = (l.next + 1) % attemptsKept
}

// Attempts returns the kept attempts of one event, or of all if that is "", newest
// first.
func (s *Server) Attempts(event string) []Attempt {
	l := &s.sender.attempts
	l.mu.Lock()
	defer l.mu.Unlock()
	out := append(slices.Clone(l.rows[l.next:]), l.rows[:l.next]...)
	if event != "" {
		out = slices.DeleteFunc(out, func(a Attempt) bool { return a.Event != event })
	}
	slices.Reverse(out)
	return out
}
