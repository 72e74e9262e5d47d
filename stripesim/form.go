package stripesim

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// field is one node of a decoded form: a value, or a hash or array of fields.
type field struct {
	name string // as sent: "amount[monetary][value]"
	val  string
	leaf bool
	used bool
	keys []string // in order of appearance
	kids map[string]*field
}

// params reads a decoded form. The first wrong parameter is kept in err, so that
// callers read all they know and ask done once; what nobody asked for is unknown.
type params struct {
	root *field
	err  *apiError
	// skips are not simulated; with ignore those of them that decorate are passed over.
	skips  []string
	ignore bool
}

// maxParams bounds what a request may make us allocate.
const maxParams = 2000

// parseForm decodes each source (query, body) in turn. Both of Stripe's array
// styles work: a[]=x and a[0]=x, also of hashes.
func parseForm(sources ...string) (*params, *apiError) {
	p := &params{root: &field{}}
	n := 0
	for _, src := range sources {
		for pair := range strings.SplitSeq(src, "&") {
			if pair == "" {
				continue
			}
			if n++; n > maxParams {
				return nil, errInvalid("", "", "Too many parameters.")
			}
			k, v, _ := strings.Cut(pair, "=")
			key, err := url.QueryUnescape(k)
			if err != nil {
				return nil, errInvalid("", "", "Invalid URL encoding in parameter name.")
			}
			val, err := url.QueryUnescape(v)
			if err != nil || !utf8.ValidString(val) || !utf8.ValidString(key) {
				return nil, errInvalid("", key, "Invalid encoding in parameter %s.", strconv.Quote(key))
			}
			if e := p.root.set(key, val); e != nil {
				return nil, e
			}
		}
	}
	return p, nil
}

// parseJSON decodes a query, and of other sources JSON objects, into the same form: so
// an endpoint of the v2 API reads its parameters as the others do.
func parseJSON(sources ...string) (*params, *apiError) {
	p, e := parseForm(sources[0])
	if e != nil {
		return nil, e
	}
	for _, src := range sources[1:] {
		if src == "" {
			continue
		}
		dec := json.NewDecoder(strings.NewReader(src))
		dec.UseNumber()
		var object map[string]any
		if err := dec.Decode(&object); err != nil || dec.More() {
			return nil, errInvalid("", "", "Invalid request body: it is not a JSON object.")
		}
		p.root.fill(object)
	}
	return p, nil
}

// fill puts the members of a JSON object in their places.
func (f *field) fill(object map[string]any) {
	for _, k := range slices.Sorted(maps.Keys(object)) {
		name := k
		if f.name != "" {
			name = f.name + "." + k
		}
		f.kid(k, name).put(object[k])
	}
}

func (f *field) put(v any) {
	switch v := v.(type) {
	case map[string]any:
		f.fill(v)
	case []any:
		for i, item := range v {
			n := strconv.Itoa(i)
			f.kid(n, f.name+"["+n+"]").put(item)
		}
	case nil:
		f.leaf = true
	default:
		f.leaf, f.val = true, fmt.Sprint(v)
	}
}

// set puts a value in its place. What has a value cannot be a hash or an array as
// well.
func (f *field) set(key, val string) *apiError {
	head, rest := key, ""
	if i := strings.IndexByte(key, '['); i > 0 && wellFormed(key[i:]) {
		head, rest = key[:i], key[i:]
	}
	at := f.kid(head, head)
	for rest != "" {
		end := strings.IndexByte(rest, ']')
		seg := rest[1:end]
		name := at.name + "[" + seg + "]"
		rest = rest[end+1:]
		if seg == "" {
			seg = at.nextItem(rest)
		}
		if at.leaf {
			return errBoth(at.name)
		}
		at = at.kid(seg, name)
	}
	if len(at.kids) > 0 {
		return errBoth(at.name)
	}
	at.leaf, at.val = true, val
	return nil
}

// wellFormed reports whether the rest of a name is segments in brackets. A name for
// which it is not is taken whole, and unknown to every endpoint.
func wellFormed(rest string) bool {
	for rest != "" {
		end := strings.IndexByte(rest, ']')
		if rest[0] != '[' || end < 0 {
			return false
		}
		rest = rest[end+1:]
	}
	return true
}

func errBoth(name string) *apiError {
	return errInvalid("", name, "Invalid parameter: %s was given both a value and members.", name)
}

// nextItem picks the array element that "[]" means: a new one, unless the last
// is a hash that lacks the key that follows (a[][id]=1&a[][name]=x is one hash).
func (f *field) nextItem(rest string) string {
	n := len(f.keys)
	if n > 0 && len(rest) > 2 {
		key := strings.TrimPrefix(rest, "[")
		if end := strings.IndexByte(key, ']'); end > 0 {
			if last := f.kids[f.keys[n-1]]; !last.leaf && last.kids[key[:end]] == nil {
				return f.keys[n-1]
			}
		}
	}
	return strconv.Itoa(n)
}

func (f *field) kid(seg, name string) *field {
	if k := f.kids[seg]; k != nil {
		return k
	}
	if f.kids == nil {
		f.kids = map[string]*field{}
	}
	k := &field{name: name}
	f.kids[seg] = k
	f.keys = append(f.keys, seg)
	return k
}

func (p *params) fail(e *apiError) {
	if p.err == nil {
		p.err = e
	}
}

// get returns a parameter that must be a plain value.
func (p *params) get(name string) (*field, bool) {
	f := p.root.kids[name]
	if f == nil {
		return nil, false
	}
	f.used = true
	if len(f.kids) > 0 {
		p.fail(errInvalid("", f.name, "Invalid string: {...}"))
		f.useAll()
		return nil, false
	}
	return f, true
}

func (f *field) useAll() {
	f.used = true
	for _, k := range f.kids {
		k.useAll()
	}
}

func (p *params) has(name string) bool { return p.root.kids[name] != nil }

// str returns a string of at most limit characters and whether it was sent.
func (p *params) str(name string, limit int) (string, bool) {
	f, ok := p.get(name)
	if !ok {
		return "", false
	}
	if len(f.val) > limit && utf8.RuneCountInString(f.val) > limit {
		p.fail(errInvalid("", f.name, "Invalid string: %s…; must be at most %d characters", string([]rune(f.val)[:10]), limit))
	}
	return f.val, true
}

// id returns a string that may not be empty.
func (p *params) id(name string) string {
	v, ok := p.str(name, 5000)
	if ok && v == "" {
		n := p.root.kids[name].name
		p.fail(errInvalid("parameter_invalid_empty", n, "You passed an empty string for '%s'. We assume empty values are an attempt to unset a parameter; however '%s' cannot be unset. You should remove '%s' from your request or supply a non-empty value.", n, n, n))
	}
	return v
}

func (p *params) int(name string) (int64, bool) {
	f, ok := p.get(name)
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseInt(f.val, 10, 64)
	if err != nil {
		p.fail(errInvalid("parameter_invalid_integer", f.name, "Invalid integer: %s", f.val))
	}
	return n, true
}

// maxTimestamp is the last second of the year 9999.
const maxTimestamp = 253_402_300_799

// timestamp returns a time in Unix seconds. Its bounds keep sums of times far from
// the ends of int64.
func (p *params) timestamp(name string) (int64, bool) {
	n, ok := p.int(name)
	if ok && (n < 0 || n > maxTimestamp) {
		p.fail(errInvalid("parameter_invalid_integer", p.root.kids[name].name, "Invalid timestamp: must be an integer Unix timestamp from 0 to %d.", maxTimestamp))
	}
	return n, ok
}

// maxAmount is far above what Stripe takes, and far below what could make a sum
// of int64 overflow.
const maxAmount = 999_999_999_999

func (p *params) amount(name string) (int64, bool) {
	n, ok := p.int(name)
	if ok && (n > maxAmount || n < -maxAmount) {
		p.fail(errInvalid("parameter_invalid_integer", p.root.kids[name].name, "Invalid integer: amount is too large"))
	}
	return n, ok
}

func (p *params) currency(name string) (string, bool) {
	f, ok := p.get(name)
	if !ok {
		return "", false
	}
	code := strings.ToLower(f.val)
	if !isCurrency(code) {
		p.fail(errInvalid("", f.name, "Invalid currency: %s. Stripe currently supports these currencies: %s", code, allCurrencies))
	}
	return internCurrency(code), true
}

func (p *params) bool(name string) (v, ok bool) {
	f, ok := p.get(name)
	if !ok {
		return false, false
	}
	switch f.val {
	case "true":
		return true, true
	case "false":
		return false, true
	}
	p.fail(errInvalid("", f.name, "Invalid boolean: %s", f.val))
	return false, false
}

func (p *params) enum(name string, values ...string) (string, bool) {
	f, ok := p.get(name)
	if !ok {
		return "", false
	}
	if i := slices.Index(values, f.val); i >= 0 {
		return values[i], true
	}
	p.fail(errInvalid("", f.name, "Invalid %s: must be one of %s", f.name, strings.Join(values, ", ")))
	return "", false
}

// hash reads a nested hash with read, and reports whether it was sent.
func (p *params) hash(name string, read func(*params)) bool {
	f := p.root.kids[name]
	if f == nil {
		return false
	}
	f.used = true
	if f.leaf {
		p.fail(errInvalid("", f.name, "Invalid object"))
		f.useAll()
		return false
	}
	sub := &params{root: f}
	read(sub)
	if sub.err != nil {
		p.fail(sub.err)
	}
	return true
}

// items returns the elements of an array, in order.
func (p *params) items(name string) ([]*field, bool) {
	f := p.root.kids[name]
	if f == nil {
		return nil, false
	}
	f.used = true
	if f.leaf {
		if f.val != "" { // a lone "" is an empty array
			p.fail(errInvalid("", f.name, "Invalid array"))
		}
		return nil, true
	}
	out := make([]*field, len(f.keys))
	for i := range out {
		if out[i] = f.kids[strconv.Itoa(i)]; out[i] == nil { // a hash, or an array with a gap
			p.fail(errInvalid("", f.name, "Invalid array"))
			f.useAll()
			return nil, true
		}
	}
	return out, true
}

func (p *params) strs(name string) ([]string, bool) {
	items, ok := p.items(name)
	var out []string
	for _, f := range items {
		if !f.leaf {
			p.fail(errInvalid("", f.name, "Invalid string: {...}"))
		}
		f.useAll()
		out = append(out, f.val)
	}
	return out, ok
}

// metadata returns old changed as the request asks: keys with a value are set,
// keys with "" go, and a bare "" clears all. It never changes old itself, which
// events and replies may still share.
func (p *params) metadata(old map[string]string) (map[string]string, bool) {
	return p.metadataNamed("metadata", old)
}

// metadataHash is metadata that cannot be cleared with "": so some endpoints have
// it in Stripe's specification.
func (p *params) metadataHash(old map[string]string) (map[string]string, bool) {
	if f := p.root.kids["metadata"]; f != nil && f.leaf {
		p.fail(errInvalid("", f.name, "Invalid object"))
	}
	return p.metadataNamed("metadata", old)
}

func (p *params) metadataNamed(name string, old map[string]string) (map[string]string, bool) {
	f := p.root.kids[name]
	if f == nil {
		return old, false
	}
	f.useAll()
	if f.leaf {
		if f.val != "" {
			p.fail(errInvalid("", f.name, "Invalid object"))
		}
		return nil, true
	}
	out := make(map[string]string, len(old)+len(f.kids))
	for k, v := range old {
		out[k] = v
	}
	for _, k := range f.keys {
		v := f.kids[k]
		switch {
		case strings.HasSuffix(v.name, "[]"):
			p.fail(errInvalid("", f.name, "Invalid object"))
		case !v.leaf:
			p.fail(errInvalid("", v.name, "Invalid string: {...}"))
		case v.val == "":
			delete(out, k)
		case utf8.RuneCountInString(k) > 40:
			p.fail(errInvalid("", v.name, "Metadata keys must be at most 40 characters long"))
		case utf8.RuneCountInString(v.val) > 500:
			p.fail(errInvalid("", v.name, "Metadata values must be at most 500 characters long"))
		default:
			out[k] = v.val
		}
	}
	if len(out) > 50 {
		p.fail(errInvalid("", f.name, "You can only have up to 50 metadata keys"))
	}
	return out, true
}

// created reads the created filter in either form.
func (p *params) created() timeRange {
	r, _ := p.timeRange("created")
	return r
}

// timeRange reads a filter of times in either form, and reports whether it was sent.
func (p *params) timeRange(name string) (timeRange, bool) {
	r := always
	f := p.root.kids[name]
	if f == nil {
		return r, false
	}
	if f.leaf {
		if n, ok := p.int(name); ok {
			r.lo, r.hi = n, n
		}
		return r, true
	}
	p.hash(name, func(p *params) {
		if n, ok := p.int("gt"); ok && n < math.MaxInt64 {
			r.lo = max(r.lo, n+1)
		}
		if n, ok := p.int("gte"); ok {
			r.lo = max(r.lo, n)
		}
		if n, ok := p.int("lt"); ok && n > math.MinInt64 {
			r.hi = min(r.hi, n-1)
		}
		if n, ok := p.int("lte"); ok {
			r.hi = min(r.hi, n)
		}
	})
	return r, true
}

// done returns the first parameter that nobody asked for, else the first that
// was wrong.
func (p *params) done() *apiError {
	for trail := p.root.unused(nil); trail != nil; trail = p.root.unused(nil) {
		if e := p.unknown(trail); e != nil {
			return e
		}
	}
	return p.err
}

// nested is a field with its key within the one around it.
type nested struct {
	*field
	key string
}

// unused is the trail to the first value that nobody asked for.
func (f *field) unused(trail []nested) []nested {
	for _, k := range f.keys {
		kid := f.kids[k]
		to := append(slices.Clip(trail), nested{kid, k})
		if !kid.used {
			for len(kid.keys) > 0 && !kid.leaf {
				k = kid.keys[0]
				kid = kid.kids[k]
				to = append(to, nested{kid, k})
			}
			return to
		}
		if to := kid.unused(to); to != nil {
			return to
		}
	}
	return nil
}
