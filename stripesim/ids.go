package stripesim

import (
	"hash/fnv"
	"strconv"
)

const base62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

// idMaker makes ids that look like Stripe's and depend on nothing but the seed
// and how many were made before. The holder of the account's lock owns it.
type idMaker struct {
	state uint64
	n     uint64
	live  bool
}

func newIDMaker(seed int64, scope string, live bool) *idMaker {
	h := fnv.New64a()
	_, _ = h.Write([]byte(scope + "/" + strconv.FormatInt(seed, 10)))
	return &idMaker{state: h.Sum64(), live: live}
}

// splitmix is the finalizer of SplitMix64: a bijection, so two counters never
// collide in the first 64 bits.
func splitmix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9
	x = (x ^ (x >> 27)) * 0x94d049bb133111eb
	return x ^ (x >> 31)
}

// text appends n base-62 characters to prefix.
func (m *idMaker) text(prefix string, n int) string {
	m.n++
	b := make([]byte, 0, len(prefix)+n)
	b = append(b, prefix...)
	x := splitmix(m.state + m.n)
	for y := x; n > 0; n-- {
		if y < 62 {
			x = splitmix(x)
			y = x
		}
		b = append(b, base62[y%62])
		y /= 62
	}
	return string(b)
}

func (m *idMaker) mode() string {
	if m.live {
		return ""
	}
	return "test_"
}

func (m *idMaker) customer() string   { return m.text("cus_", 14) }
func (m *idMaker) balanceTxn() string { return m.text("cbtxn_1", 23) }
func (m *idMaker) creditTxn() string  { return m.text("cbtxn_"+m.mode()+"61", 28) }
func (m *idMaker) grant() string      { return m.text("credgr_"+m.mode()+"61", 28) }
func (m *idMaker) event() string      { return m.text("evt_1", 23) }
func (m *idMaker) thinEvent() string {
	return m.text("evt_"+m.mode()+"65", 46)
}

func (m *idMaker) destination() string {
	return m.text("ed_"+m.mode()+"61", 46)
}
func (m *idMaker) clock() string    { return m.text("clock_1", 23) }
func (m *idMaker) endpoint() string { return m.text("we_1", 23) }
func (m *idMaker) secret() string   { return m.text("whsec_", 32) }
func (m *idMaker) request() string  { return m.text("req_", 14) }
func (m *idMaker) invoice() string  { return m.text("in_1", 23) }
func (m *idMaker) upcoming() string { return m.text("upcoming_in_1", 23) }
func (m *idMaker) lineItem() string { return m.text("il_1", 23) }
func (m *idMaker) item() string     { return m.text("ii_1", 23) }
func (m *idMaker) note() string     { return m.text("cn_1", 23) }
func (m *idMaker) noteLine() string { return m.text("cnli_1", 23) }
func (m *idMaker) price() string    { return m.text("price_1", 23) }
func (m *idMaker) product() string  { return m.text("prod_", 14) }
func (m *idMaker) refund() string   { return m.text("re_1", 23) }
func (m *idMaker) account() string  { return m.text("acct_1", 15) }
