package stripeapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/creditmirror/creditmirror/mirror"
)

// The reader below is used in place of encoding/json's struct decoding, which
// takes keys in any case, lets doubled keys pass, and loses the bytes.

// object is a JSON object split into its members, values as compact JSON.
type object struct {
	members []member
	index   map[string]int
}

type member struct {
	key    string
	rawKey []byte
	value  []byte
}

// compactJSON checks that body is one JSON value in valid UTF-8 and takes the
// blanks between tokens out, and what no database holds (mirror.StorableJSON); every
// other byte stays.
func compactJSON(body []byte) ([]byte, error) {
	if !utf8.Valid(body) {
		return nil, errors.New("not valid UTF-8")
	}
	var b bytes.Buffer
	b.Grow(len(body))
	if err := json.Compact(&b, body); err != nil {
		return nil, errors.New("not JSON")
	}
	if bytes.Count(b.Bytes(), []byte(`":`)) > maxNames {
		return nil, fmt.Errorf("more than %d names", maxNames)
	}
	return mirror.StorableJSON(b.Bytes()), nil
}

// A page of 100 objects has about 5,000 names, and an array of an object a few dozen
// elements. Each costs many times its length in memory; these keep a reply of the
// largest size from costing more than its own bytes a few times over.
const (
	maxNames    = 100_000 // of a whole reply; one within a string counts too
	maxElements = 10_000  // of one array
)

// parseObject splits an object. Its input comes from compactJSON, directly or
// as a part of it, so that the syntax is known to be right.
func parseObject(raw []byte) (object, error) {
	if len(raw) < 2 || raw[0] != '{' {
		return object{}, errors.New("not an object")
	}
	o := object{index: make(map[string]int)}
	for i := 1; i < len(raw) && raw[i] != '}'; {
		keyEnd := skipValue(raw, i)
		valueEnd := skipValue(raw, keyEnd+1) // past the colon
		m := member{rawKey: raw[i:keyEnd], value: raw[keyEnd+1 : valueEnd]}
		m.key, _ = unquote(m.rawKey) // a key is always a string
		if _, twice := o.index[m.key]; twice {
			// Readers disagree which of the two counts.
			return object{}, fmt.Errorf("key %.40q occurs twice", m.key)
		}
		o.index[m.key] = len(o.members)
		o.members = append(o.members, m)
		if i = valueEnd; i < len(raw) && raw[i] == ',' {
			i++
		}
	}
	return o, nil
}

// parseArray splits an array, under the condition of parseObject.
func parseArray(raw []byte) ([][]byte, error) {
	if len(raw) < 2 || raw[0] != '[' {
		return nil, errors.New("not an array")
	}
	var elements [][]byte
	for i := 1; i < len(raw) && raw[i] != ']'; {
		if len(elements) == maxElements {
			return nil, fmt.Errorf("an array of more than %d elements", maxElements)
		}
		end := skipValue(raw, i)
		elements = append(elements, raw[i:end])
		if i = end; i < len(raw) && raw[i] == ',' {
			i++
		}
	}
	return elements, nil
}

// skipValue returns where the value that begins at i ends.
func skipValue(raw []byte, i int) int {
	depth := 0
	for i < len(raw) {
		switch raw[i] {
		case '"':
			i = skipString(raw, i)
			if depth == 0 {
				return i
			}
			continue
		case '{', '[':
			depth++
		case '}', ']':
			if depth == 0 {
				return i // ends the number or word before it
			}
			if depth--; depth == 0 {
				return i + 1
			}
		case ',', ':':
			if depth == 0 {
				return i
			}
		}
		i++
	}
	return i
}

func skipString(raw []byte, i int) int {
	for i++; i < len(raw); i++ {
		switch raw[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return i
}

// with returns the object's JSON with the string s in place of the member key;
// everything else stays byte for byte, in order.
func (o object) with(key, s string) json.RawMessage {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, m := range o.members {
		if i > 0 {
			b.WriteByte(',')
		}
		b.Write(m.rawKey)
		b.WriteByte(':')
		if m.key == key {
			b.Write(quote(s))
		} else {
			b.Write(m.value)
		}
	}
	b.WriteByte('}')
	return b.Bytes()
}

// flat returns the object's JSON with the id in place of each of the members
// that is expanded: the caller of a write may have asked for that. The members
// have been read as references, so that each has an id.
func (o object) flat(keys ...string) json.RawMessage {
	members := slices.Clone(o.members)
	for i, m := range members {
		if !slices.Contains(keys, m.key) || m.value[0] != '{' {
			continue
		}
		f := fields{}
		f.object, _ = parseObject(m.value)
		members[i].value = quote(f.id("id"))
	}
	return object{members: members}.with("", "")
}

func quote(s string) []byte {
	b, err := json.Marshal(s)
	if err != nil { // strings always marshal
		return []byte(`""`)
	}
	return b
}

// fields reads an object's members and remembers the first fault, so that a
// decoder is a list of fields and one check at the end.
type fields struct {
	object
	err error
}

func (f *fields) fail(key, what string) {
	if f.err == nil {
		f.err = fmt.Errorf("%s %s", key, what)
	}
}

// raw returns a member's value; nil when it is absent or null.
func (f *fields) raw(key string) []byte {
	i, ok := f.index[key]
	if !ok {
		return nil
	}
	if v := f.members[i].value; string(v) != "null" {
		return v
	}
	return nil
}

// need is raw for a member that must be there.
func (f *fields) need(key string) []byte {
	v := f.raw(key)
	if v == nil {
		f.fail(key, "is missing")
	}
	return v
}

func (f *fields) text(key string) string {
	if f.need(key) == nil {
		return ""
	}
	return f.optText(key)
}

func (f *fields) optText(key string) string {
	v := f.raw(key)
	if v == nil {
		return ""
	}
	s, ok := unquote(v)
	if !ok {
		f.fail(key, "is not a string")
	}
	return s
}

func unquote(v []byte) (s string, ok bool) {
	if v[0] != '"' {
		return "", false
	}
	if bytes.IndexByte(v, '\\') < 0 {
		return string(v[1 : len(v)-1]), true
	}
	return s, json.Unmarshal(v, &s) == nil
}

func (f *fields) word(key, want string) {
	if s := f.text(key); f.err == nil && s != want {
		f.fail(key, fmt.Sprintf("is %.60q, want %q", s, want))
	}
}

// id reads an identifier: any form, but no blanks and no control characters.
func (f *fields) id(key string) string {
	s := f.text(key)
	if f.err == nil && !identifier(s) {
		f.fail(key, "is not an id")
	}
	return s
}

func identifier(s string) bool { return mirror.ValidID(s) }

func (f *fields) boolean(key string) bool {
	v := f.need(key)
	if v != nil && string(v) != "true" && string(v) != "false" {
		f.fail(key, "is not a boolean")
	}
	return string(v) == "true"
}

func (f *fields) integer(key string) int64 {
	v := f.need(key)
	if v == nil {
		return 0
	}
	n, err := integer(v)
	if err != nil {
		f.fail(key, err.Error())
	}
	return n
}

// integer reads plain digits only: 1.0 and 1e3 are integers to some readers,
// but what Stripe sends are digits, and amounts are not to be guessed.
func integer(v []byte) (int64, error) {
	n, err := strconv.ParseInt(string(v), 10, 64)
	if err != nil {
		return 0, errors.New("is not a 64-bit integer")
	}
	return n, nil
}

// maxUnix is the year 9999: later times fit no database's timestamp.
const maxUnix = 253402300799

func (f *fields) time(key string) time.Time {
	if f.need(key) == nil {
		return time.Time{}
	}
	return f.optTime(key)
}

func (f *fields) optTime(key string) time.Time {
	v := f.raw(key)
	if v == nil {
		return time.Time{}
	}
	n, err := integer(v)
	if err != nil || n <= 0 || n > maxUnix {
		f.fail(key, "is not a time")
		return time.Time{}
	}
	return time.Unix(n, 0).UTC()
}

func (f *fields) currency(key string) string {
	s := f.text(key)
	if f.err == nil && !currency(s) {
		f.fail(key, "is not a currency")
	}
	return s
}

func currency(s string) bool {
	for _, c := range []byte(s) {
		if c < 'a' || c > 'z' {
			return false
		}
	}
	return len(s) >= 3 && len(s) <= 16
}

// ref reads what is an id, or the object when it is expanded.
func (f *fields) ref(key string) string {
	if f.need(key) == nil {
		return ""
	}
	return f.optRef(key)
}

func (f *fields) optRef(key string) string {
	v := f.raw(key)
	if v == nil {
		return ""
	}
	if v[0] == '"' {
		return f.id(key)
	}
	o, err := parseObject(v)
	if err != nil {
		f.fail(key, "is neither an id nor an object")
		return ""
	}
	inner := fields{object: o}
	id := inner.id("id")
	f.join(key, inner)
	return id
}

// sub reads a member that must be an object.
func (f *fields) sub(key string) fields {
	v := f.need(key)
	if v == nil {
		return fields{}
	}
	o, err := parseObject(v)
	if err != nil {
		f.fail(key, "is "+err.Error())
	}
	return fields{object: o}
}

// join takes over the fault of a member's own fields.
func (f *fields) join(key string, inner fields) {
	if inner.err != nil && f.err == nil {
		f.err = fmt.Errorf("%s.%w", key, inner.err)
	}
}

// metadata reads a map; null and absent are the empty one.
func (f *fields) metadata() json.RawMessage {
	v := f.raw("metadata")
	if v == nil {
		return json.RawMessage("{}")
	}
	if v[0] != '{' {
		f.fail("metadata", "is not an object")
	}
	return bytes.Clone(v)
}

func sortedKeys(v url.Values) []string { return slices.Sorted(maps.Keys(v)) }

// has reports whether a member is there and not null.
func (f *fields) has(key string) bool { return f.raw(key) != nil }
