package mirror

import (
	"encoding/json"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// StorableText is a text as both databases hold it: PostgreSQL has no NUL and no broken UTF-8. A
// row with such a character is worth more than the character.
func StorableText(s string) string {
	if strings.IndexByte(s, 0) < 0 && utf8.ValidString(s) {
		return s
	}
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "")
}

// StorableJSON is a JSON text as both databases hold it: jsonb has no \u0000 and no
// half of a surrogate pair. What Stripe sends is made so as it is read, so that what is
// stored, compared and served is the same, in both. It returns raw itself where there is nothing to do.
func StorableJSON(raw json.RawMessage) json.RawMessage {
	text := StorableText(string(raw))
	if !strings.Contains(text, `\u`) {
		if len(text) == len(raw) && utf8.Valid(raw) {
			return raw
		}
		return json.RawMessage(text)
	}
	var out strings.Builder
	out.Grow(len(text))
	for i := 0; i < len(text); {
		if text[i] != '\\' || i+1 >= len(text) {
			out.WriteByte(text[i])
			i++
			continue
		}
		unit, ok := escapedUnit(text[i:])
		switch {
		case !ok: // another escape, such as \\ or \n
			out.WriteString(text[i : i+2])
			i += 2
		case unit == 0:
			i += 6
		case !utf16.IsSurrogate(rune(unit)):
			out.WriteString(text[i : i+6])
			i += 6
		default:
			low, _ := escapedUnit(text[i+6:])
			if utf16.DecodeRune(rune(unit), rune(low)) != utf8.RuneError {
				out.WriteString(text[i : i+12])
				i += 12
			} else {
				out.WriteString("\uFFFD")
				i += 6
			}
		}
	}
	return json.RawMessage(out.String())
}

// escapedUnit reads the \uXXXX that s begins with.
func escapedUnit(s string) (uint16, bool) {
	if len(s) < 6 || s[0] != '\\' || s[1] != 'u' {
		return 0, false
	}
	n, err := strconv.ParseUint(s[2:6], 16, 16)
	return uint16(n), err == nil
}
