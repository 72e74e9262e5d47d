package mirror

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
)

// Canonical writes JSON with sorted keys, no white space and numbers as they
// were written, so that two texts of the same object are equal. Text that is not
// JSON comes back unchanged.
func Canonical(raw json.RawMessage) json.RawMessage {
	if len(raw) == 0 {
		return nil
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	var v any
	if dec.Decode(&v) != nil {
		return raw
	}
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	if enc.Encode(v) != nil {
		return raw
	}
	return bytes.TrimRight(out.Bytes(), "\n")
}

// Digest names the content of a JSON text: equal for equal Canonical texts.
func Digest(raw json.RawMessage) string {
	sum := sha256.Sum256(Canonical(raw))
	return hex.EncodeToString(sum[:16])
}

// DeadLetterID is the id of the one dead letter that a target can have.
func DeadLetterID(t Target) string {
	return deadLetterID([]byte("target " + t.Key()))
}

// UnreadableID is the id of the dead letter of a body that could not be read.
func UnreadableID(body []byte) string {
	return deadLetterID(body)
}

func deadLetterID(b []byte) string {
	sum := sha256.Sum256(b)
	return "dead_" + hex.EncodeToString(sum[:16])
}
