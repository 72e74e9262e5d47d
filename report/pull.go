package report

import (
	"cmp"
	"iter"
)

func (k Key) key() Key { return k }

// less reports whether k lies before o.
func (k Key) less(o Key) bool {
	return cmp.Or(cmp.Compare(k.Account, o.Account), cmp.Compare(k.Customer, o.Customer)) < 0
}

// puller reads a stream that is ordered by keys, one row ahead.
type puller[Row interface{ key() Key }] struct {
	head Row
	more bool
	err  error
	next func() (Row, error, bool)
	stop func()
}

func pull[Row interface{ key() Key }](rows iter.Seq2[Row, error]) *puller[Row] {
	p := &puller[Row]{}
	p.next, p.stop = iter.Pull2(rows)
	p.step()
	return p
}

func (p *puller[Row]) step() {
	p.head, p.err, p.more = p.next()
	p.more = p.more && p.err == nil
}

// at reports whether the next row is of the customer.
func (p *puller[Row]) at(k Key) bool { return p.more && p.head.key() == k }

// least keeps the lesser of the next row's key and another.
func (p *puller[Row]) least(k *Key, some *bool) {
	if p.more && (!*some || p.head.key().less(*k)) {
		*k, *some = p.head.key(), true
	}
}

// of are the next rows, those of one customer.
func (p *puller[Row]) of(k Key) iter.Seq2[Row, error] {
	return func(yield func(Row, error) bool) {
		for p.at(k) {
			row := p.head
			p.step()
			if !yield(row, nil) {
				return
			}
		}
		if p.err != nil {
			var none Row
			yield(none, p.err)
		}
	}
}
