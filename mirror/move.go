package mirror

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"math/big"
	"strconv"
	"strings"
	"time"
)

// Kind is what a column holds, whatever its type in a database.
type Kind byte

// The kinds, with the Go type of their values; nil is NULL for each.
const (
	KindText  Kind = 0   // string
	KindInt   Kind = 'i' // int64
	KindBool  Kind = 'b' // bool
	KindTime  Kind = 't' // time.Time, in UTC and whole microseconds
	KindJSON  Kind = 'j' // string, JSON
	KindBytes Kind = 'x' // []byte
)

// Column is one column of a Table.
type Column struct {
	Name string
	Kind Kind
}

// Table is one table of the mirror as both databases have it.
type Table struct {
	Name    string
	Columns []Column
	// Key is how many columns, from the first, name a row. Rows are dumped in their
	// order, text by its bytes.
	Key int
}

// tablesText lists every table: its name, its key, its other columns. A test of
// each driver holds it against the schema.
var tablesText = []string{
	"customers: account id / balance:i currency invoice_credit_balance:j created:t livemode:b test_clock customer_account deleted:b deleted_at:t raw:j digest synced_at:t",
	"customer_balances: account customer currency / balance:i synced_at:t",
	"customer_balance_transactions: account customer id / currency amount:i ending_balance:i type invoice credit_note checkout_session description metadata:j created:t livemode:b chain_position:i raw:j digest synced_at:t",
	"credit_grants: account id / customer name category amount_type amount:i currency applicability_config:j priority:i effective_at:t expires_at:t voided_at:t created:t updated:t livemode:b test_clock metadata:j raw:j digest synced_at:t",
	"credit_balance_transactions: account customer id / grant type credit_type debit_type currency amount:i invoice invoice_line_item effective_at:t created:t livemode:b test_clock raw:j digest synced_at:t",
	"credit_balance_summaries: account customer currency / available_balance:i ledger_balance:i synced_at:t",
	"stripe_events: account id / seq:i type customer object question_scope question_id pending_scopes:i livemode:b api_version created:t received_at:t applied_at:t synced_at:t object_updated:t",
	"dead_letters: account id / customer scope reason attempts:i event_ids:j payload:x first_failed_at:t last_failed_at:t retry_at:t synced_at:t class",
	"drift_findings: account id / kind customer scope currency object expected actual cause found_at:t repaired_at:t synced_at:t notified:i",
	"sweeps: account name / state:j watermark:t started_at:t last_success:t last_found:i synced_at:t",
	"sync_state: account customer scope / epoch:i applied_epoch:i observed_at:t history_complete:b complete_to:t walk_cursor walk_top:t walk_full:b disproved:b synced_at:t full_read_at:t read_rank:i refused_at:t",
	"closed_periods: account period seal:i ledger currency / period_start:t period_end:t closing:i rows:i digest unproven:i position sealed_at:t reopened_at:t reopen_reason synced_at:t",
	"api_writes: account id / created:t key_name operation customer object amount:i currency idempotency_key remote_addr stripe_request_id status:i outcome reason repeated:i synced_at:t",
	"api_write_intents: account id / created:t key_name operation customer object amount:i currency idempotency_key remote_addr synced_at:t",
	"api_key_uses: account name / last_used_at:t synced_at:t",
	"operator_actions: account id / created:t actor remote_addr action customer object reason outcome count:i detail synced_at:t",
	sessionsTable + ": account id / key_name bond created:t expires_at:t synced_at:t",
	"test_clocks: account id / frozen_time:t synced_at:t",
	"accounts: account / seen_at:t synced_at:t",
	"queue_incarnations: account queue_partition:i / incarnation high_water:i synced_at:t",
	leasesTable + ": account name / owner expires_at:t synced_at:t",
	cursorsTable + ": account name / generation:i position number:i seen_at:t synced_at:t",
	daysTable + ": generation:i account ledger currency day line / amount:i rows:i synced_at:t",
	daysTable + "_state: account / generation:i building:i position usable:b built_at:t folded_at:t synced_at:t proof_generation:i proof_position",
	daysTable + "_doubts: account customer / token synced_at:t sums:b",
	totalsTable + ": account seq:i / table_name currency rows:i amount:i synced_at:t",
	// Last: loading others may add records to it, which are replaced by these.
	"changes: account seq:i / table_name customer id op changed_at:t synced_at:t",
}

const (
	// leasesTable says which process works at present. It is looked at and not moved.
	leasesTable = "leases"
	// cursorsTable says how far the feed of one database was read. Positions mean
	// nothing in another one, whose readers begin anew.
	cursorsTable = "export_cursors"
	// sessionsTable says who is signed in to the console. They sign in anew.
	sessionsTable = "console_sessions"
	// daysTable and the tables about it are made of the rows, and made anew.
	daysTable = "ledger_days"
	// totalsTable says what changed in the sums of tables, for readers of this
	// database's own feed.
	totalsTable = "total_changes"
	// ChangesTable is the change feed.
	ChangesTable = "changes"
)

// Derived reports whether the table is made of the others: it is not dumped, and
// whoever loads a mirror empties it.
func (t Table) Derived() bool { return t.Name == totalsTable || strings.HasPrefix(t.Name, daysTable) }

// stays reports whether a table is about one database, so that it is not moved.
func stays(table string) bool {
	return table == leasesTable || table == cursorsTable || table == sessionsTable || table == totalsTable || strings.HasPrefix(table, daysTable)
}

// Tables lists every table of the mirror.
func Tables() []Table {
	list := make([]Table, 0, len(tablesText))
	for _, text := range tablesText {
		name, columns, _ := strings.Cut(text, ": ")
		t := Table{Name: name}
		for word := range strings.FieldsSeq(columns) {
			if word == "/" {
				t.Key = len(t.Columns)
				continue
			}
			column, kind, typed := strings.Cut(word, ":")
			c := Column{Name: column}
			if typed {
				c.Kind = Kind(kind[0])
			}
			t.Columns = append(t.Columns, c)
		}
		list = append(list, t)
	}
	return list
}

// Rows is called for each row, table by table.
type Rows func(t Table, values []any) error

// Mover is a database that whole mirrors can be moved out of and into.
type Mover interface {
	// Dump reads every table of Tables from one snapshot.
	Dump(ctx context.Context, row Rows) error
	// Load fills an empty mirror in one transaction: fill is given where to put rows,
	// then check is given how to read back what was written, and only when both
	// return nil it is committed. ErrNotEmpty when there are rows already.
	Load(ctx context.Context, fill func(put Rows) error, check func(dump func(Rows) error) error) error
}

// What a move refuses.
var (
	// ErrNotEmpty says that the mirror to move to holds something.
	ErrNotEmpty = errors.New("the mirror to move to is not empty")
	// ErrInUse says that a process works on the mirror to move from.
	ErrInUse = errors.New("the mirror to move from is in use")
)

// Moved is what was moved of one table.
type Moved struct {
	Table string
	Rows  int64
	// Digest is over every value of every row, the same on both sides.
	Digest string
}

// Move copies all of from into to, which must be empty, and reads it back: it is
// committed only when every table has the same rows with the same values on both
// sides. progress may be nil.
func Move(ctx context.Context, from, to Mover, now time.Time, progress func(table string, rows int64)) ([]Moved, error) {
	source, copied := newTally(progress), newTally(nil)
	err := to.Load(ctx, func(put Rows) error {
		return from.Dump(ctx, func(t Table, values []any) error {
			if t.Name == leasesTable {
				if expires, ok := values[3].(time.Time); ok && expires.After(now) {
					return fmt.Errorf("%w: %v holds the lease %v until %s; stop every serve on it, and try again a few seconds later",
						ErrInUse, values[2], values[1], expires.UTC().Format(time.RFC3339))
				}
				return nil
			}
			if stays(t.Name) {
				return nil
			}
			source.add(t, values)
			return put(t, values)
		})
	}, func(dump func(Rows) error) error {
		err := dump(func(t Table, values []any) error {
			if !stays(t.Name) {
				copied.add(t, values)
			}
			return nil
		})
		if err != nil {
			return err
		}
		var wrong []error
		for i, m := range source.list() {
			if back := copied.list()[i]; back != m {
				wrong = append(wrong, fmt.Errorf("table %s: read %d rows with digest %s, read back %d with %s", m.Table, m.Rows, m.Digest, back.Rows, back.Digest))
			}
		}
		return errors.Join(wrong...)
	})
	return source.list(), err
}

// tally counts and digests rows per table.
type tally struct {
	rows     map[string]int64
	sums     map[string]hash.Hash
	progress func(string, int64)
}

func newTally(progress func(string, int64)) *tally {
	return &tally{rows: map[string]int64{}, sums: map[string]hash.Hash{}, progress: progress}
}

func (c *tally) add(t Table, values []any) {
	sum, ok := c.sums[t.Name]
	if !ok {
		sum = sha256.New()
		c.sums[t.Name] = sum
	}
	for i, v := range values {
		text := portable(t.Columns[i].Kind, v)
		var length [9]byte // NULL is not the empty text
		if v != nil {
			length[0] = 1
		}
		binary.BigEndian.PutUint64(length[1:], uint64(len(text)))
		sum.Write(length[:])
		sum.Write(text)
	}
	c.rows[t.Name]++
	if c.progress != nil {
		c.progress(t.Name, c.rows[t.Name])
	}
}

func (c *tally) list() (list []Moved) {
	for _, t := range Tables() {
		if stays(t.Name) {
			continue
		}
		m := Moved{Table: t.Name, Rows: c.rows[t.Name]}
		if sum, ok := c.sums[t.Name]; ok {
			m.Digest = hex.EncodeToString(sum.Sum(nil)[:8])
		}
		list = append(list, m)
	}
	return list
}

// portable writes a value so that equal values of both databases are equal bytes.
func portable(k Kind, v any) []byte {
	switch v := v.(type) {
	case nil:
		return nil
	case []byte:
		return v
	case time.Time:
		return []byte(v.UTC().Format(time.RFC3339Nano))
	case string:
		if k == KindJSON {
			return portableJSON(v)
		}
		return []byte(v)
	}
	return fmt.Append(nil, v)
}

// portableJSON is Canonical with numbers by their value, and without the NUL
// characters that PostgreSQL has no place for: its jsonb keeps neither 1e2 for 100
// nor an escaped NUL.
func portableJSON(text string) []byte {
	dec := json.NewDecoder(strings.NewReader(text))
	dec.UseNumber()
	var v any
	if dec.Decode(&v) != nil {
		return []byte(text)
	}
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	if enc.Encode(normal(v)) != nil {
		return []byte(text)
	}
	return out.Bytes()
}

func normal(v any) any {
	switch v := v.(type) {
	case json.Number:
		mantissa, exponent, _ := strings.Cut(strings.ToLower(v.String()), "e")
		// A fraction takes memory by its exponent; no amount or rate comes near this.
		if n, err := strconv.Atoi(exponent); exponent == "" || err == nil && -400 <= n && n <= 400 {
			if r, ok := new(big.Rat).SetString(v.String()); ok && len(mantissa) < 400 {
				return "\x00" + r.RatString() // no text has a NUL here
			}
		}
	case string:
		return strings.ReplaceAll(v, "\x00", "")
	case []any:
		for i := range v {
			v[i] = normal(v[i])
		}
	case map[string]any:
		clean := make(map[string]any, len(v))
		for key, inner := range v {
			clean[strings.ReplaceAll(key, "\x00", "")] = normal(inner)
		}
		return clean
	}
	return v
}
