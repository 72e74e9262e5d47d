package api

import (
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/creditmirror/creditmirror/mirror"
)

// Parameters that several operations take.
const (
	paramLimit  = "limit"
	paramAfter  = "starting_after"
	paramBefore = "ending_before"
	paramExpand = paramExpandName + "[]"
	// paramExpandName is how a write may name it too: expand[0].
	paramExpandName = "expand"
)

// paramsCreated is the filter by created in both of its forms: one second, or a
// range.
var paramsCreated = []string{"created", "created[gt]", "created[gte]", "created[lt]", "created[lte]"}

const (
	defaultLimit = 10
	maxLimit     = 100
	// maxElements bounds each array. The longest sensible expand[] has four.
	maxElements = 100
)

// query is a parsed query string that holds nothing the operation does not know.
type query struct {
	values map[string]string
	arrays map[string][]string
}

// index is one place in an array: [] or [7].
var index = regexp.MustCompile(`\[\d{0,6}\]`)

// parse checks the query and puts what it says into c.
func (rt *route) parse(raw string, c *call) error {
	q, err := parseQuery(raw, rt.params, rt.arrays)
	if err != nil {
		return err
	}
	c.query = q
	tree, err := parseExpand(q.arrays[paramExpand], rt.expand)
	if err != nil {
		return err
	}
	if rt.rows != "" {
		if c.page, err = q.page(rt.rows); err != nil {
			return err
		}
		if c.page.Created, err = q.created(); err != nil {
			return err
		}
	}
	if rt.rows != "" {
		tree = tree["data"]
	}
	c.expand = tree
	return nil
}

// parseQuery reads a query in order, so that of several faults always the first
// is reported. params are names of single values; arrays are names in which []
// stands for an index.
func parseQuery(raw string, params, arrays []string) (query, error) {
	q := query{values: map[string]string{}, arrays: map[string][]string{}}
	seen := map[string]bool{}
	for pair := range strings.SplitSeq(raw, "&") {
		if pair == "" {
			continue
		}
		name, value, _ := strings.Cut(pair, "=")
		name, err1 := url.QueryUnescape(name)
		value, err2 := url.QueryUnescape(value)
		if err1 != nil || err2 != nil {
			return query{}, errInvalid("", "", "Invalid query string: it is not properly encoded.")
		}
		general := index.ReplaceAllString(name, "[]")
		array := slices.Contains(arrays, general)
		switch {
		case !array && slices.Contains(arrays, name+"[]") && value == "":
			continue // how SDKs write an empty array
		case !array && slices.Contains(arrays, name+"[]"):
			return query{}, errInvalid("", name, "Invalid array")
		case !array && !slices.Contains(params, name):
			return query{}, errUnknownParam(name)
		case seen[name] && !strings.Contains(name, "[]"):
			return query{}, errInvalid("", name, "You passed '%s' more than once.", name)
		case value == "":
			return query{}, errEmptyParam(name)
		case !utf8.ValidString(value):
			return query{}, errInvalid("", name, "Invalid string: it must be UTF-8.")
		case !array:
			q.values[name] = value
		case len(q.arrays[general]) == maxElements:
			return query{}, errInvalid("", general, "This array may have at most %d elements.", maxElements)
		default:
			q.arrays[general] = append(q.arrays[general], value)
		}
		seen[name] = true
	}
	return q, nil
}

// decimal distinguishes integers from what strconv would also read.
var decimal = regexp.MustCompile(`^-?[0-9]+$`)

// page reads the paging parameters of a list of what rows names.
func (q query) page(rows string) (mirror.Page, error) {
	p := mirror.Page{Limit: defaultLimit, After: q.values[paramAfter], Before: q.values[paramBefore]}
	if s, ok := q.values[paramLimit]; ok {
		if !decimal.MatchString(s) {
			return p, errInvalid("parameter_invalid_integer", paramLimit, "Invalid integer: %s", clip(s))
		}
		// Out of range, n is the nearest end of the range. The live API takes what is out
		// of its own range as its nearest end, whatever its documents say.
		n, _ := strconv.ParseInt(s, 10, 32)
		p.Limit = int(min(max(n, 1), maxLimit))
	}
	if p.After != "" && !validID(p.After) {
		return p, errCursor(rows, mirror.Page{After: p.After})
	}
	if p.Before != "" && !validID(p.Before) {
		return p, errCursor(rows, mirror.Page{Before: p.Before})
	}
	return p, nil
}

// maxUnix is the end of the year 9999: later times fit no database's timestamp.
const maxUnix = 253402300799

// created reads the filter by time, bounds included.
func (q query) created() (mirror.Span, error) {
	low, high := int64(0), int64(maxUnix)
	for _, name := range paramsCreated {
		s, ok := q.values[name]
		if !ok {
			continue
		}
		if !decimal.MatchString(s) {
			return mirror.Span{}, errInvalid("parameter_invalid_integer", name, "Invalid integer: %s", clip(s))
		}
		// Out of range, n is the nearest end of the range, which lies beyond any row.
		n, _ := strconv.ParseInt(s, 10, 64)
		n = min(max(n, -2), maxUnix+2)
		switch name {
		case "created":
			if q.has(paramsCreated[1:]) {
				return mirror.Span{}, errInvalid("", name, "Invalid object: created is a time or a range, not both")
			}
			low, high = n, n
		case "created[gt]":
			low = max(low, n+1)
		case "created[gte]":
			low = max(low, n)
		case "created[lt]":
			high = min(high, n-1)
		case "created[lte]":
			high = min(high, n)
		}
	}
	if low == 0 && high == maxUnix {
		return mirror.Span{}, nil
	}
	if low > high { // no row: a second that no row of Stripe's has
		low, high = -1, -1
	}
	return mirror.Span{From: time.Unix(low, 0).UTC(), To: time.Unix(high, 0).UTC()}, nil
}

func (q query) has(names []string) bool {
	return slices.ContainsFunc(names, func(name string) bool { return q.values[name] != "" })
}

// errCursor says that the list has no row of the cursor's id.
func errCursor(rows string, p mirror.Page) *apiError {
	if rows == nameBalanceTransaction {
		rows = "abstracttransaction" // so Stripe says
	}
	if p.Before != "" {
		return errMissing(http.StatusBadRequest, rows, p.Before, paramBefore)
	}
	return errMissing(http.StatusBadRequest, rows, p.After, paramAfter)
}

// validID reports whether id can be one of any object of Stripe's.
func validID(id string) bool { return mirror.ValidID(id) }
