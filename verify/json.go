package verify

import (
	"iter"
	"strings"
)

// members yields the members of the text of a JSON object, one after the other,
// without decoding what is in them. A value that is a text comes without its
// quotes, null as the empty text. The text may come from anybody: it yields what
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

// object is what the columns are made from of an object of Stripe's, of whatever
// kind, each as members yields it.
type object struct {
	object, id, kind, created, updated, livemode, testClock, metadata       string
	customer, customerAccount, currency                                     string
	balance, invoiceCreditBalance                                           string
	amount, endingBalance, description                                      string
	invoice, invoiceLineItem, creditNote, checkoutSession                   string
	name, category, applicabilityConfig, priority                           string
	effectiveAt, expiresAt, voidedAt                                        string
	monetary, value, creditGrant, credit, debit, applied, applicationVoided string
}

// read reads an object in one pass. What it does not have is empty.
func read(text string) (o object) {
	for name, value := range members(text) {
		if field := o.field(name); field != nil {
			*field = value
		}
	}
	return o
}

// field is where a member belongs; nil for one that no column is made from.
func (o *object) field(name string) *string {
	switch name {
	case "object":
		return &o.object
	case "id":
		return &o.id
	case "type":
		return &o.kind
	case "created":
		return &o.created
	case "updated":
		return &o.updated
	case "livemode":
		return &o.livemode
	case "test_clock":
		return &o.testClock
	case "metadata":
		return &o.metadata
	case "customer":
		return &o.customer
	case "customer_account":
		return &o.customerAccount
	case "currency":
		return &o.currency
	case "balance":
		return &o.balance
	case "invoice_credit_balance":
		return &o.invoiceCreditBalance
	case "amount":
		return &o.amount
	case "ending_balance":
		return &o.endingBalance
	case "description":
		return &o.description
	case "invoice":
		return &o.invoice
	case "invoice_line_item":
		return &o.invoiceLineItem
	case "credit_note":
		return &o.creditNote
	case "checkout_session":
		return &o.checkoutSession
	case "name":
		return &o.name
	case "category":
		return &o.category
	case "applicability_config":
		return &o.applicabilityConfig
	case "priority":
		return &o.priority
	case "effective_at":
		return &o.effectiveAt
	case "expires_at":
		return &o.expiresAt
	case "voided_at":
		return &o.voidedAt
	case "monetary":
		return &o.monetary
	case "value":
		return &o.value
	case "credit_grant":
		return &o.creditGrant
	case "credit":
		return &o.credit
	case "debit":
		return &o.debit
	case "credits_applied":
		return &o.applied
	case "credits_application_invoice_voided":
		return &o.applicationVoided
	}
	return nil
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
