package stripeapi

import (
	"errors"
	"fmt"
)

// row is one object of a list.
type row struct {
	fields
	json []byte
	id   string
}

// list is a checked envelope.
type list struct {
	rows    []row
	hasMore bool
}

// decodeList checks the envelope of a list. Its url is not looked at: Stripe
// itself puts wrong ones there. cursors are the ids that the page was asked to
// lie beyond: a page that has one of them would be read for ever.
func decodeList(body []byte, cursors ...string) (list, error) {
	top, err := decodeTop(body)
	if err != nil {
		return list{}, err
	}
	top.word("object", "list")
	more := top.boolean("has_more")
	data := top.need("data")
	if top.err != nil {
		return list{}, top.err
	}
	elements, err := parseArray(data)
	if err != nil {
		return list{}, fmt.Errorf("data is %w", err)
	}
	if more && len(elements) == 0 {
		return list{}, errors.New("has_more is true, but there is no row to go on from")
	}
	l := list{hasMore: more, rows: make([]row, 0, len(elements))}
	seen := make(map[string]bool, len(elements)+len(cursors))
	for _, c := range cursors {
		if c != "" {
			seen[c] = true
		}
	}
	for i, raw := range elements {
		o, err := parseObject(raw)
		if err != nil {
			return list{}, fmt.Errorf("row %d is %w", i, err)
		}
		r := row{fields: fields{object: o}, json: raw}
		if r.id = r.fields.id("id"); r.err != nil {
			return list{}, fmt.Errorf("row %d: %w", i, r.err)
		}
		if seen[r.id] {
			return list{}, fmt.Errorf("row %d: %.60q comes twice", i, r.id)
		}
		seen[r.id] = true
		l.rows = append(l.rows, r)
	}
	return l, nil
}

// decodeTop splits a whole reply.
func decodeTop(body []byte) (row, error) {
	raw, err := compactJSON(body)
	if err != nil {
		return row{}, err
	}
	o, err := parseObject(raw)
	if err != nil {
		return row{}, err
	}
	r := row{fields: fields{object: o}, json: raw}
	if r.has("error") && !r.has("object") {
		return row{}, errors.New("an error in the body of a reply that is none")
	}
	return r, nil
}

// decodeOne splits a reply that is a single object with an id.
func decodeOne(body []byte) (row, error) {
	r, err := decodeTop(body)
	if err != nil {
		return row{}, err
	}
	r.id = r.fields.id("id")
	return r, r.err
}

// decodeRows decodes every row of a list, and names the one at fault.
func decodeRows[T any](l list, decode func(r row) (T, error)) ([]T, error) {
	rows := make([]T, 0, len(l.rows))
	for _, r := range l.rows {
		v, err := decode(r)
		if err != nil {
			return nil, fmt.Errorf("%.60q: %w", r.id, err)
		}
		rows = append(rows, v)
	}
	return rows, nil
}
