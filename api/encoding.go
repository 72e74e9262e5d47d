package api

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"strconv"
	"strings"
	"sync"
)

// minGzip is the size in bytes from which compressing saves more than a packet.
const minGzip = 1400

var gzipWriters = sync.Pool{New: func() any {
	w, _ := gzip.NewWriterLevel(nil, gzip.BestSpeed) // the level is a valid one
	return w
}}

// encode gives a read its ETag, answers 304 to whoever has it already, and
// compresses what is worth it.
func encode(r *http.Request, header http.Header, out response) response {
	if r.Method == http.MethodGet && out.status == http.StatusOK {
		// Caches may keep the reply for the same caller, and must ask each time.
		header.Set("Cache-Control", "private, no-cache")
		header.Set("Vary", "Authorization, Stripe-Account, Stripe-Context, Stripe-Version, Accept-Encoding")
		sum := sha256.Sum256(out.body)
		tag := `W/"` + hex.EncodeToString(sum[:16]) + `"`
		header.Set("ETag", tag)
		if sameTag(r.Header.Values("If-None-Match"), tag) {
			header.Del("Content-Type")
			return response{status: http.StatusNotModified}
		}
	}
	if len(out.body) < minGzip || !takesGzip(r.Header.Values("Accept-Encoding")) {
		return out
	}
	var b bytes.Buffer
	w := gzipWriters.Get().(*gzip.Writer)
	defer gzipWriters.Put(w)
	w.Reset(&b)
	_, err := w.Write(out.body)
	if err != nil || w.Close() != nil { // a buffer takes everything
		return out
	}
	header.Set("Content-Encoding", "gzip")
	out.body = b.Bytes()
	return out
}

// sameTag compares weakly, as If-None-Match does.
func sameTag(headers []string, tag string) bool {
	weak := strings.TrimPrefix(tag, "W/")
	for _, header := range headers {
		for candidate := range strings.SplitSeq(header, ",") {
			candidate = strings.TrimSpace(candidate)
			if candidate == "*" || strings.TrimPrefix(candidate, "W/") == weak {
				return true
			}
		}
	}
	return false
}

// takesGzip reads Accept-Encoding: gzip by name, or else a star, with a weight
// above zero.
func takesGzip(headers []string) bool {
	star := false
	for _, header := range headers {
		for part := range strings.SplitSeq(header, ",") {
			name, params, _ := strings.Cut(part, ";")
			weight := 1.0
			if q, ok := strings.CutPrefix(strings.ReplaceAll(params, " ", ""), "q="); ok {
				var err error
				if weight, err = strconv.ParseFloat(q, 64); err != nil {
					weight = 0
				}
			}
			switch strings.ToLower(strings.TrimSpace(name)) {
			case "gzip", "x-gzip":
				return weight > 0
			case "*":
				star = weight > 0
			}
		}
	}
	return star
}
