package notify

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"strconv"
	"strings"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
)

// SignatureHeader carries when a webhook was sent and its signatures.
const SignatureHeader = "Creditmirror-Signature"

// The types of webhooks.
const (
	TypeOpened = "drift.opened"
	TypeClosed = "drift.closed"
)

// Message is the body of a webhook. It is the same whenever the step is sent:
// only ids and amounts, nothing that a customer wrote.
type Message struct {
	// ID is the finding's, with the step behind it: the same for each delivery.
	ID   string `json:"id"`
	Type string `json:"type"`
	// Created is when the finding was opened or closed, in Unix seconds.
	Created int64          `json:"created"`
	Finding MessageFinding `json:"finding"`
}

// MessageFinding is the finding that a webhook is about.
type MessageFinding struct {
	ID       string           `json:"id"`
	Kind     mirror.DriftKind `json:"kind"`
	Account  string           `json:"account"` // empty: the platform's own
	Customer string           `json:"customer"`
	Scope    mirror.Scope     `json:"scope"`
	Currency string           `json:"currency"`
	Object   string           `json:"object"`
	// Expected and Actual are amounts in minor units, digests of rows with the names
	// of the columns that differ, or words such as a currency or a type.
	Expected string `json:"expected"`
	Actual   string `json:"actual"`
	Cause    string `json:"cause"`
	// OpenedAt and ClosedAt are in Unix seconds; ClosedAt is null in drift.opened.
	OpenedAt int64  `json:"opened_at"`
	ClosedAt *int64 `json:"closed_at"`
}

// message is the body for a step.
func message(n mirror.Notice) Message {
	f := n.Finding
	m := Message{
		ID: f.ID + ".opened", Type: TypeOpened, Created: n.At.Unix(),
		Finding: MessageFinding{
			ID: f.ID, Kind: f.Kind, Account: f.Account, Customer: f.Customer, Scope: f.Scope, Currency: f.Currency,
			Object: f.Object, Expected: f.Expected, Actual: f.Actual, Cause: f.Cause, OpenedAt: f.FoundAt.Unix(),
		},
	}
	if n.Closed {
		closed := n.At.Unix()
		m.ID, m.Type, m.Finding.ClosedAt = f.ID+".closed", TypeClosed, &closed
	}
	return m
}

// encode is the body as it is sent and signed.
func (m Message) encode() []byte {
	body, err := json.Marshal(m)
	if err != nil {
		panic(err) // strings and numbers always have a JSON form
	}
	return body
}

// Sign returns the value of SignatureHeader for a body sent at a time: a v1 for
// each secret, so that a receiver that knows one of them can check it.
//
//	t=UNIX-SECONDS,v1=HEX(HMAC-SHA256(secret, "UNIX-SECONDS" + "." + body))
func Sign(body []byte, at time.Time, secrets []string) string {
	stamp := strconv.FormatInt(at.Unix(), 10)
	var b strings.Builder
	b.WriteString("t=" + stamp)
	for _, secret := range secrets {
		mac := hmac.New(sha256.New, []byte(secret))
		mac.Write([]byte(stamp + "."))
		mac.Write(body)
		b.WriteString(",v1=" + hex.EncodeToString(mac.Sum(nil)))
	}
	return b.String()
}
