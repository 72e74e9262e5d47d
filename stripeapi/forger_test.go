package stripeapi

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// forger makes signatures that are nearly right: what a good one is made of, with one
// thing or more that is not. Each of its ways is one that has let forgeries into some
// receiver.
type forger struct {
	r      *rand.Rand
	secret string
	now    time.Time
}

func mac(secret string, parts ...string) string {
	h := hmac.New(sha256.New, []byte(secret))
	h.Write([]byte(strings.Join(parts, ".")))
	return hex.EncodeToString(h.Sum(nil))
}

// forge returns a request that must be refused, and the way in which it was made.
func (f *forger) forge() (way int, payload string, headers []string) {
	payload = fmt.Sprintf(`{"id":"evt_%d","object":"event","type":"customer.updated"}`, f.r.Uint64())
	at := strconv.FormatInt(f.now.Unix()-f.r.Int64N(600)+300, 10)
	good := mac(f.secret, at, payload)
	flip := func(s string) string {
		b := []byte(s)
		b[f.r.IntN(len(b))] ^= 1 << f.r.IntN(7)
		return string(b)
	}
	way = f.r.IntN(26)
	h := ""
	switch way {
	case 0: // another secret
		h = "t=" + at + ",v1=" + mac(flip(f.secret), at, payload)
	case 1: // the empty secret
		h = "t=" + at + ",v1=" + mac("", at, payload)
	case 2: // the secret without its prefix
		h = "t=" + at + ",v1=" + mac(strings.TrimPrefix(f.secret, "whsec_"), at, payload)
	case 3: // a scheme that is ignored
		h = "t=" + at + ",v0=" + good
	case 4: // one bit of the MAC
		b, _ := hex.DecodeString(good)
		b[f.r.IntN(len(b))] ^= 1 << f.r.IntN(8)
		h = "t=" + at + ",v1=" + hex.EncodeToString(b)
	case 5: // one bit of the body
		h = "t=" + at + ",v1=" + good
		payload = flip(payload)
	case 6: // another time
		h = "t=" + strconv.FormatInt(f.now.Unix()+1000+f.r.Int64N(1e6), 10) + ",v1=" + good
	case 7: // replayed too late, well signed
		old := strconv.FormatInt(f.now.Unix()-301-f.r.Int64N(1e6), 10)
		h = "t=" + old + ",v1=" + mac(f.secret, old, payload)
	case 8: // from the future, well signed
		next := strconv.FormatInt(f.now.Unix()+301+f.r.Int64N(1e6), 10)
		h = "t=" + next + ",v1=" + mac(f.secret, next, payload)
	case 9: // cut off
		h = "t=" + at + ",v1=" + good[:f.r.IntN(len(good))]
	case 10: // longer
		h = "t=" + at + ",v1=" + good + []string{"0", "00", "zz", " ", "="}[f.r.IntN(5)]
	case 11: // in capitals
		h = "t=" + at + ",v1=" + strings.ToUpper(good)
		if strings.ToUpper(good) == good {
			h = ""
		}
	case 12: // the MAC of the body alone
		h = "t=" + at + ",v1=" + mac(f.secret, payload)
	case 13: // the MAC of the time alone
		h = "t=" + at + ",v1=" + mac(f.secret, at, "")
	case 14: // the boundary between time and body moved: 12.3x is not 1.23x
		h = "t=" + at[:9] + ",v1=" + mac(f.secret, at, payload)
		payload = at[9:] + "." + payload
	case 15: // two times, one of them good
		h = "t=" + at + ",t=" + strconv.FormatInt(f.now.Unix()-9999, 10) + ",v1=" + good
	case 16: // two headers
		return way, payload, []string{"t=" + at + ",v1=" + good, "t=" + at + ",v1=" + good}
	case 17: // white space
		h = []string{" t=" + at + ",v1=" + good, "t=" + at + ", v1=" + good, "t= " + at + ",v1=" + good, "t=" + at + ",v1= " + good, "t=" + at + ",v1=" + good + "\t"}[f.r.IntN(5)]
	case 18: // numbers that are none
		bad := []string{"+" + at, "0x" + at, at + ".0", at + "e0", "0" + at, "-" + at, ""}[f.r.IntN(7)]
		h = "t=" + bad + ",v1=" + mac(f.secret, bad, payload)
	case 19: // junk, and very much of it, before the good one
		h = "t=" + at + strings.Repeat(",v1="+strings.Repeat("0", 64), 8+f.r.IntN(100)) + ",v1=" + good
	case 20: // no time
		h = "v1=" + good
	case 21: // a body that a proxy has touched
		h = "t=" + at + ",v1=" + good
		payload = []string{"\xef\xbb\xbf" + payload, payload + "\n", payload + "\r\n", " " + payload, strings.ReplaceAll(payload, ":", ": ")}[f.r.IntN(5)]
	case 22: // other names
		h = []string{"T=" + at + ",V1=" + good, "t:" + at + ",v1:" + good, "t=" + at + ";v1=" + good, "t=" + at + "&v1=" + good, "t=" + at + ",v10=" + good}[f.r.IntN(5)]
	case 23: // nothing
		h = []string{"", ",", "t=,v1=", "t=" + at + ",v1=", "=", "t", "v1"}[f.r.IntN(7)]
	case 24: // a MAC of nothing known
		b := make([]byte, 32)
		for i := range b {
			b[i] = byte(f.r.Uint32())
		}
		h = "t=" + at + ",v1=" + hex.EncodeToString(b)
	case 25: // the secret itself as the MAC
		h = "t=" + at + ",v1=" + hex.EncodeToString([]byte(f.secret))
	}
	return way, payload, []string{h}
}

// G12, I16: of 1,000,000 structured forgeries none is accepted, and what the check of the
// time lets through the check of the whole still refuses. FORGERIES says how many.
func TestI16_NoForgeryIsAccepted(t *testing.T) {
	t.Parallel()
	total := 1_000_000
	if raceEnabled {
		total = 100_000
	}
	if n, err := strconv.Atoi(os.Getenv("FORGERIES")); err == nil {
		total = n
	}
	secrets := []string{"whsec_first0123456789abcdef", "whsec_second0123456789abcdef", " "}
	now := time.Unix(1_780_000_000, 0)
	var accepted atomic.Int64
	var ways [26]atomic.Int64
	var group sync.WaitGroup
	workers := runtime.GOMAXPROCS(0)
	for w := range workers {
		group.Go(func() {
			f := &forger{r: rand.New(rand.NewPCG(uint64(w), 17)), now: now} // repeatable
			for n := range total / workers {
				f.secret = secrets[n%2]
				way, payload, headers := f.forge()
				ways[way].Add(1)
				header := http.Header{SignatureHeader: headers}
				if _, _, err := VerifySignature([]byte(payload), header, secrets, now); err == nil {
					if accepted.Add(1) < 10 {
						t.Errorf("way %d was accepted: %q with %q", way, headers, payload)
					}
				}
			}
		})
	}
	group.Wait()
	for way := range ways {
		if ways[way].Load() < int64(total/100) {
			t.Errorf("way %d was tried %d times", way, ways[way].Load())
		}
	}
	// The forger knows how: without its twist it would be let in.
	at := strconv.FormatInt(now.Unix(), 10)
	header := http.Header{SignatureHeader: {"t=" + at + ",v1=" + mac(secrets[1], at, "{}")}}
	if _, _, err := VerifySignature([]byte("{}"), header, secrets, now); err != nil || SignatureTime(header, now) != nil {
		t.Errorf("a good one: %v", err)
	}
	t.Logf("%d forgeries, %d accepted", total, accepted.Load())
}

// SignatureTime never refuses what VerifySignature takes.
func FuzzSignatureTime(f *testing.F) {
	f.Add("t=1780000000,v1=00", int64(0))
	f.Add("t=1780000000,v1=00", int64(301))
	f.Add("t=1,t=2", int64(-301))
	const secret = "whsec_first0123456789abcdef"
	f.Fuzz(func(t *testing.T, header string, skew int64) {
		now := time.Unix(1_780_000_000, 0)
		h := http.Header{SignatureHeader: {header}}
		if _, _, err := VerifySignature([]byte("{}"), h, []string{secret}, now); err == nil && SignatureTime(h, now) != nil {
			t.Fatalf("%q is verified and refused", header)
		}
		at := strconv.FormatInt(now.Unix()+skew%1000, 10)
		h = http.Header{SignatureHeader: {"t=" + at + ",v1=" + mac(secret, at, "{}")}}
		_, _, err := VerifySignature([]byte("{}"), h, []string{secret}, now)
		if early := SignatureTime(h, now); (err == nil) != (early == nil) {
			t.Fatalf("t=%s: %v and %v", at, err, early)
		}
	})
}
