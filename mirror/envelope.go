package mirror

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"time"
	"unicode/utf8"
)

// jsonText is a part of a text that json.Valid has accepted; nil where it was
// not there. encoding/json is not used to find the parts of an event: it matches
// keys whatever their case, so that two readers of one event could see two ids,
// and it builds the whole payload, of which only ids are wanted.
type jsonText []byte

// validJSON reports whether the other functions here may look at a text.
func validJSON(raw []byte) bool { return utf8.Valid(raw) && json.Valid(raw) }

func (j jsonText) null() bool { return len(j) == 0 || string(j) == "null" }

// into decodes a value that must be there.
func (j jsonText) into(name string, target any) error {
	if j.null() {
		return fmt.Errorf("%s is missing", name)
	}
	if json.Unmarshal(j, target) != nil {
		return fmt.Errorf("%s has the wrong type", name)
	}
	return nil
}

func (j jsonText) text(name string) (string, error) {
	if j.null() {
		return "", fmt.Errorf("%s is missing", name)
	}
	if j[0] != '"' {
		return "", fmt.Errorf("%s has the wrong type", name)
	}
	return unquote(j), nil
}

func (j jsonText) optionalText(name string) (string, error) {
	if j.null() {
		return "", nil
	}
	return j.text(name)
}

// reference reads a field that is an id, or the object when it is expanded.
func (j jsonText) reference(name string) (string, error) {
	if len(j) == 0 || j[0] != '{' {
		return j.text(name)
	}
	var id jsonText
	if err := members(j, name, map[string]*jsonText{"id": &id}); err != nil {
		return "", err
	}
	return id.text(name + ".id")
}

// moment reads seconds since 1970; zero where the value is none.
func (j jsonText) moment() time.Time {
	seconds, err := strconv.ParseInt(string(j), 10, 64)
	if err != nil || seconds <= 0 || seconds > maxUnix {
		return time.Time{}
	}
	return time.Unix(seconds, 0).UTC()
}

// unquote reads a JSON string; most have no escape in them.
func unquote(quoted []byte) string {
	if bytes.IndexByte(quoted, '\\') < 0 {
		return string(quoted[1 : len(quoted)-1])
	}
	var s string
	_ = json.Unmarshal(quoted, &s) //nolint:errcheck // it is valid JSON and begins with a quote
	return s
}

// members finds the wanted members of an object, keys in their exact case; of a
// doubled key the last one counts, as everywhere in JSON.
func members(raw jsonText, name string, want map[string]*jsonText) error {
	i := space(raw, 0)
	if i == len(raw) || string(raw) == "null" {
		return fmt.Errorf("%s is missing", name)
	}
	if raw[i] != '{' {
		return fmt.Errorf("%s is not a JSON object", name)
	}
	for i = space(raw, i+1); raw[i] != '}'; i = space(raw, i) {
		if raw[i] == ',' {
			i = space(raw, i+1)
		}
		end := skip(raw, i)
		into, wanted := want[unquote(raw[i:end])]
		i = space(raw, space(raw, end)+1) // over the colon
		end = skip(raw, i)
		if wanted {
			*into = raw[i:end]
		}
		i = end
	}
	return nil
}

// space returns the index of the first byte at or after i that is no white space.
func space(raw []byte, i int) int {
	for i < len(raw) && (raw[i] == ' ' || raw[i] == '\n' || raw[i] == '\t' || raw[i] == '\r') {
		i++
	}
	return i
}

// skip returns the index behind the value that begins at i.
func skip(raw []byte, i int) int {
	switch raw[i] {
	case '"':
		return skipString(raw, i)
	case '{', '[':
		for depth := 0; ; i++ {
			switch raw[i] {
			case '"':
				i = skipString(raw, i) - 1
			case '{', '[':
				depth++
			case '}', ']':
				if depth--; depth == 0 {
					return i + 1
				}
			}
		}
	}
	for i < len(raw) && bytes.IndexByte([]byte(" \n\t\r,]}"), raw[i]) < 0 {
		i++
	}
	return i
}

func skipString(raw []byte, i int) int {
	for i++; raw[i] != '"'; i++ {
		if raw[i] == '\\' {
			i++
		}
	}
	return i + 1
}
