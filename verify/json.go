package verify

import (
	"iter"
	"strings"
)

// members tells the members of the text of a JSON object, one after the other,
// without decoding what is in them. A value that is a text comes without its
// quotes, null as the empty text. The text may come from anybody: it tells what
// there is up to the place where it stops being JSON.
func members(object string) iter.Seq2[string, string] {
	return func(yield func(name, value string) bool) {
		s := skipSpace(object)
		if s == "" || s[0] != '{' {
			return
		}
		s = s[1:]
		for {
			s = skipSpace(s)
			if s == "" || s[0] != '"' {
				return
			}
			n := textLen(s)
			if n == 0 {
				return
			}
			name := s[1 : n-1]
			s = skipSpace(s[n:])
			if s == "" || s[0] != ':' {
				return
			}
			s = skipSpace(s[1:])
			n = valueLen(s)
			if n == 0 {
				return
			}
			value := s[:n]
			switch {
			case value == "null":
				value = ""
			case value[0] == '"':
				value = value[1 : n-1]
			}
			if !yield(name, value) {
				return
			}
			s = skipSpace(s[n:])
			if s == "" || s[0] != ',' {
				return
			}
			s = s[1:]
		}
	}
}

// member is the value of one key; empty where there is none.
func member(object, key string) string {
	for name, value := range members(object) {
		if name == key {
			return value
		}
	}
	return ""
}

// path follows members.
func path(object string, keys ...string) string {
	for _, key := range keys {
		object = member(object, key)
	}
	return object
}

func skipSpace(s string) string {
	if s == "" || s[0] > ' ' {
		return s
	}
	return strings.TrimLeft(s, " \t\r\n")
}

// valueLen is how long the value is that s begins with; 0 where it does not end.
func valueLen(s string) int {
	if s == "" {
		return 0
	}
	switch s[0] {
	case '"':
		return textLen(s)
	case '{', '[':
		depth := 0
		for i := 0; i < len(s); i++ {
			switch s[i] {
			case '"':
				n := textLen(s[i:])
				if n == 0 {
					return 0
				}
				i += n - 1
			case '{', '[':
				depth++
			case '}', ']':
				if depth--; depth == 0 {
					return i + 1
				}
			}
		}
		return 0
	}
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case ',', '}', ']', ' ', '\t', '\r', '\n', ':', '"':
			return i
		}
	}
	return len(s)
}

// textLen is how long the text is that s begins with, quotes included.
func textLen(s string) int {
	for i := 1; ; i++ {
		n := strings.IndexByte(s[i:], '"')
		if n < 0 {
			return 0
		}
		i += n
		slashes := 0
		for s[i-1-slashes] == '\\' {
			slashes++
		}
		if slashes%2 == 0 {
			return i + 1
		}
	}
}
