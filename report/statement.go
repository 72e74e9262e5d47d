package report

import (
	"context"
	"time"
)

// Movement is one line of a statement: a movement, or where a ledger stood before or
// after them.
type Movement struct {
	Row
	Ledger  Ledger
	Balance int64
	// Edge marks opening and closing, which have no amount.
	Edge bool
}

// Statement yields every movement of one customer from a time on (zero: the beginning)
// and before q.Until, with the running balance; per ledger and currency first where it
// stood, last where it stands. q.Filter names the account and the customer.
func Statement(ctx context.Context, from Reader, q Query, start time.Time, yield func(Movement) error) (Outcome, error) {
	var out Outcome
	for _, l := range q.Ledgers {
		standing := Standing{Key: Key{*q.Account, q.Customer}, Complete: true}
		for s, err := range from.Standings(ctx, l, q.Filter) {
			if err != nil {
				return out, err
			}
			standing = s
		}
		if !standing.Proven() && !standing.Released(start) {
			out.unproven(standing, l)
			continue
		}
		st := statement{ledger: l, start: start, until: q.Until, all: q.All, yield: yield, out: &out, living: standing.DeletedAt.IsZero()}
		rows := from.Rows(ctx, RowQuery{Filter: q.Filter, Ledger: l, Until: q.Until})
		for r, err := range Entries(l, standing, ByLedger, q.Until, rows) {
			if err == nil {
				err = st.add(r)
			}
			if err != nil {
				return out, err
			}
		}
		if err := st.end(); err != nil {
			return out, err
		}
	}
	return out, nil
}

// statement is one ledger, currency by currency.
type statement struct {
	ledger       Ledger
	start, until time.Time
	all, living  bool
	yield        func(Movement) error
	out          *Outcome

	row    Row // the last
	held   Wide
	opened bool
	last   Row // the one with the highest place in the chain
}

func (s *statement) add(r Row) error {
	if r.Currency != s.row.Currency {
		if err := s.end(); err != nil {
			return err
		}
	}
	s.row = r
	if r.Position > s.last.Position {
		s.last = r
	}
	if r.Dated.Before(s.start) {
		s.held.Add(r.Amount)
		return nil
	}
	if err := s.open(r.Dated); err != nil {
		return err
	}
	s.held.Add(r.Amount)
	return s.line(Movement{Row: r, Ledger: s.ledger})
}

// line yields a line with what is held.
func (s *statement) line(m Movement) (err error) {
	if m.Balance, err = s.held.Fit(m.Key, s.ledger, m.Currency); err != nil {
		return err
	}
	return s.yield(m)
}

// open yields where the ledger stood, once.
func (s *statement) open(first time.Time) error {
	if s.opened {
		return nil
	}
	s.opened = true
	if !s.start.IsZero() {
		first = s.start
	}
	return s.edge(LineOpening, first)
}

func (s *statement) edge(line string, at time.Time) error {
	return s.line(Movement{Row: Row{Key: s.row.Key, Currency: s.row.Currency, Type: line, Dated: at}, Ledger: s.ledger, Edge: true})
}

// end yields where the ledger stands.
func (s *statement) end() error {
	defer func() { s.held, s.opened, s.row, s.last = Wide{}, false, Row{}, Row{} }()
	if s.row.Currency == "" && s.row.ID == "" {
		return nil
	}
	held, err := s.held.Fit(s.row.Key, s.ledger, s.row.Currency)
	if err != nil {
		return err
	}
	if s.ledger == LedgerBalance && s.living && held != s.last.EndingBalance {
		s.out.differs(Difference{s.row.Key, s.row.Currency, held, s.last.EndingBalance})
	}
	if !s.opened && held == 0 && !s.all {
		return nil
	}
	if err := s.open(s.start); err != nil {
		return err
	}
	return s.edge(LineClosing, AsOf(s.until))
}
