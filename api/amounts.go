package api

import (
	"net/url"
	"regexp"
	"strconv"
	"strings"

	"github.com/creditmirror/creditmirror/access"
)

// amountParams are the names of the amount and its currency, where an operation has any.
func amountParams(o access.Operation) (amount, currency string) {
	switch o {
	case access.Adjust:
		return "amount", "currency"
	case access.Grant:
		return "amount[monetary][value]", "amount[monetary][currency]"
	}
	return "", ""
}

var currencyCode = regexp.MustCompile(`^[a-z]{3}$`)

// amountOf reads the amount of a write; ok is false where there is none that can be read
// as Stripe reads it.
func amountOf(o access.Operation, form url.Values) (currency string, amount int64, ok bool) {
	amountName, currencyName := amountParams(o)
	if amountName == "" {
		return "", 0, false
	}
	currency = strings.ToLower(form.Get(currencyName))
	text := form.Get(amountName)
	amount, err := strconv.ParseInt(text, 10, 64)
	if err != nil || !decimal.MatchString(text) || !currencyCode.MatchString(currency) {
		return "", 0, false
	}
	return currency, amount, true
}

// authorizeAmount judges the amount of a write by a key with limits. What could be read
// as another amount than the one that is judged is refused: names beside the two, and
// values that are not plainly a number and a currency.
func authorizeAmount(o access.Operation, form url.Values, holder *access.Holder) error {
	amountName, currencyName := amountParams(o)
	if holder == nil || !holder.Bounded() || amountName == "" {
		return nil
	}
	for name := range form {
		base, _, _ := strings.Cut(name, "[")
		if base = strings.ToLower(strings.TrimSpace(base)); (base == "amount" || base == "currency") && name != amountName && name != currencyName {
			return errInvalid("", name, "The amount of this key's writes is limited, so that only %s and %s can state it.", amountName, currencyName)
		}
	}
	currency, amount, ok := amountOf(o, form)
	if !ok {
		return errInvalid("", amountName, "The amount of this key's writes is limited, so that %s must be an integer and %s a currency.", amountName, currencyName)
	}
	if !holder.MayWrite(currency, amount) {
		return errNotAllowed("max_amount", "the amount is more than it may write, or of another currency")
	}
	return nil
}

// twice finds a name that is given twice, as a value or as a value and a table. Arrays
// written with [] have one name for all their elements.
func twice(form url.Values) string {
	for name, values := range form {
		if len(values) > 1 && !strings.Contains(name, "[]") {
			return name
		}
		for i := range name {
			if name[i] != '[' || i == 0 {
				continue
			}
			if _, both := form[name[:i]]; both {
				return name[:i]
			}
		}
	}
	return ""
}
