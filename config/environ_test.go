package config

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// environRow is one environment, as NAME=value separated by " ; ".
type environRow struct {
	environ string
	want    string // the variables with a problem, in order, separated by spaces
	message string // part of the error text
}

func rows() []environRow {
	const (
		key, hook, base  = "STRIPE_API_KEY", "STRIPE_WEBHOOK_SECRET", "STRIPE_API_BASE"
		db, redis, inbox = "CREDITMIRROR_DATABASE_URL", "CREDITMIRROR_REDIS_URL", "CREDITMIRROR_INBOX"
		api, ops, keys   = "CREDITMIRROR_API_ADDR", "CREDITMIRROR_OPS_ADDR", "CREDITMIRROR_API_KEYS"

		collector, headers  = "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_HEADERS"
		notify, sign, allow = "CREDITMIRROR_NOTIFY_URL", "CREDITMIRROR_NOTIFY_SECRET", "CREDITMIRROR_NOTIFY_ALLOW"
	)
	return []environRow{
		// Stripe's key
		{"STRIPE_API_KEY=sk_test_x", "", ""},
		{"STRIPE_API_KEY=sk_live_x", "", ""},
		{"STRIPE_API_KEY=rk_test_x", "", ""},
		{"STRIPE_API_KEY=rk_live_x_y-z", "", ""},
		{"STRIPE_API_KEY=", "", ""},
		{"STRIPE_API_KEY=pk_live_Canary", key, "publishable key"},
		{"STRIPE_API_KEY=sk_org_live_Canary", key, "a key of an organisation"},
		{"STRIPE_API_KEY=sk_org_test_Canary", key, "use a key of the account itself"},
		{"STRIPE_API_KEY=rk_org_live_Canary", key, "a key of an organisation"},
		{"STRIPE_API_KEY=whsec_Canary", key, "belongs into STRIPE_WEBHOOK_SECRET"},
		{"STRIPE_API_KEY=sk_Canary", key, "is not a Stripe key"},
		{"STRIPE_API_KEY=sk_live_", key, "is not a Stripe key"},
		{"STRIPE_API_KEY=sk_prod_Canary", key, "is not a Stripe key"},
		{"STRIPE_API_KEY=SK_TEST_Canary", key, "is not a Stripe key"},
		{"STRIPE_API_KEY= sk_test_Canary", key, "white space"},
		{"STRIPE_API_KEY= ", key, "white space"},
		{"STRIPE_API_KEY=sk_test_Can ary", key, "character"},
		{`STRIPE_API_KEY="sk_test_Canary"`, key, "not a Stripe key"},
		// Webhook secrets
		{"STRIPE_WEBHOOK_SECRET=whsec_a", "", ""},
		{"STRIPE_WEBHOOK_SECRET= whsec_a , whsec_b ", "", ""},
		{"STRIPE_WEBHOOK_SECRET= ", hook, "empty entry"},
		{"STRIPE_WEBHOOK_SECRET=whsec_Canary,", hook, "empty entry (number 2)"},
		{"STRIPE_WEBHOOK_SECRET=whsec_", hook, "not a whole"},
		{"STRIPE_WEBHOOK_SECRET=whsec_Can ary", hook, "not a whole"},
		{"STRIPE_WEBHOOK_SECRET=whsec_Canary,whsec_Canary", hook, "twice"},
		{"STRIPE_WEBHOOK_SECRET=whsec_Canary,sk_test_Canary", hook, "API key as entry number 2"},
		{"STRIPE_WEBHOOK_SECRET=Canary", hook, "does not begin with whsec_"},
		{"STRIPE_WEBHOOK_SECRET=Canary,", hook + " " + hook, "empty entry"},
		// Stripe's base, version and accounts
		{"STRIPE_API_BASE=https://proxy.example:8443/", "", ""},
		{"STRIPE_API_BASE=http://sim:12111", "", ""},
		{"STRIPE_API_BASE=http://sim:12111 ; STRIPE_API_KEY=sk_test_x", "", ""},
		{"STRIPE_API_BASE=http://[::1]:12111 ; STRIPE_API_KEY=sk_live_x", "", ""},
		{"STRIPE_API_BASE=http://localhost:1 ; STRIPE_API_KEY=sk_live_x", "", ""},
		{"STRIPE_API_BASE=http://sim:12111 ; STRIPE_API_KEY=sk_live_Canary", base, "unencrypted"},
		{"STRIPE_API_BASE=http://sim:12111 ; STRIPE_API_KEY=sk_live_Can ary", key, "character"},
		{"STRIPE_API_BASE=", base, "set but empty"},
		{"STRIPE_API_BASE=api.stripe.com", base, "not a URL"},
		{"STRIPE_API_BASE=ftp://api.stripe.com", base, "http or https"},
		{"STRIPE_API_BASE=https://u:Canary@h", base, "password"},
		{"STRIPE_API_BASE=https://h/v1", base, "ends in /v1"},
		{"STRIPE_API_BASE=https://h/x", base, "path"},
		{"STRIPE_API_BASE=https://h?Canary", base, "query"},
		{"STRIPE_API_BASE=https://h#Canary", base, "fragment"},
		{"STRIPE_API_BASE=https://h:99999", base, "host and port"},
		{"STRIPE_API_BASE=https://h:", base, "host and port"},
		{"STRIPE_API_BASE=https://Canary%zz", base, "not a URL"},
		{"STRIPE_API_VERSION=2024-06-20", "", ""},
		{"STRIPE_API_VERSION=2025-03-31.basil", "", ""},
		{"STRIPE_API_VERSION=2025-05-28.basil;flag=v1", "", ""},
		{"STRIPE_API_VERSION=2026-11-18.preview; one_beta=v2; other=v1", "", ""},
		{"STRIPE_API_VERSION=2025-05-28.basil;flag", "STRIPE_API_VERSION", "such as"},
		{"STRIPE_API_VERSION=2024-13-20", "STRIPE_API_VERSION", "2024-13-20"},
		{"STRIPE_API_VERSION=latest", "STRIPE_API_VERSION", "latest"},
		{"STRIPE_API_VERSION=2024-06-20.", "STRIPE_API_VERSION", "such as"},
		{"STRIPE_ACCOUNTS=", "", ""},
		{"STRIPE_ACCOUNTS=*", "", ""},
		{"STRIPE_ACCOUNTS=acct_1,acct_2", "", ""},
		{"STRIPE_ACCOUNTS=*,acct_1", "STRIPE_ACCOUNTS", "* alone"},
		{"STRIPE_ACCOUNTS=acct_1,acct_1", "STRIPE_ACCOUNTS", "twice"},
		{"STRIPE_ACCOUNTS=acct_1,,acct_2", "STRIPE_ACCOUNTS", "empty entry"},
		{"STRIPE_ACCOUNTS=cus_1", "STRIPE_ACCOUNTS", `"cus_1"`},
		{"STRIPE_ACCOUNTS=sk_live_Canary", "STRIPE_ACCOUNTS", "not shown"},
		// Database
		{"CREDITMIRROR_DATABASE_URL=sqlite:/var/lib/mirror.db", "", ""},
		{"CREDITMIRROR_DATABASE_URL=sqlite:./my data/ü.db", "", ""},
		{"CREDITMIRROR_DATABASE_URL=sqlite:///var/lib/mirror.db", "", ""},
		{"CREDITMIRROR_DATABASE_URL=postgres://u:p@h:5432/d?sslmode=require", "", ""},
		{"CREDITMIRROR_DATABASE_URL=postgresql://h1:1,[::1]:2,h3/d", "", ""},
		{"CREDITMIRROR_DATABASE_URL=postgres:///d?host=/run/postgresql", "", ""},
		{"CREDITMIRROR_DATABASE_URL=postgres://h/d?default_query_exec_mode=cache_describe", "", ""},
		{"CREDITMIRROR_DATABASE_URL=postgres://h/d?default_query_exec_mode=exec", db, "cache_describe"},
		{"CREDITMIRROR_DATABASE_URL=postgres://h/d?default_query_exec_mode=simple_protocol", db, "cache_describe"},
		{"CREDITMIRROR_DATABASE_URL=postgres://h/d?default_query_exec_mode=describe_exec", db, "cache_describe"},
		{"CREDITMIRROR_DATABASE_URL=postgres://%2Frun%2Fpostgresql/d", db, "host and port"},
		{"CREDITMIRROR_DATABASE_URL=", db, "set but empty"},
		{"CREDITMIRROR_DATABASE_URL= ", db, "not a URL"},
		{"CREDITMIRROR_DATABASE_URL=sqlite:", db, "names no file"},
		{"CREDITMIRROR_DATABASE_URL=sqlite::memory:", db, "keeps nothing"},
		{"CREDITMIRROR_DATABASE_URL=sqlite:file:x?mode=memory", db, "file:"},
		{"CREDITMIRROR_DATABASE_URL=sqlite:x?mode=memory", db, "options"},
		{"CREDITMIRROR_DATABASE_URL=sqlite://mirror.db", db, "two slashes"},
		{"CREDITMIRROR_DATABASE_URL=sqlite:data/", db, "folder"},
		{"CREDITMIRROR_DATABASE_URL=mysql://u:Canary@h/d", db, "neither"},
		{"CREDITMIRROR_DATABASE_URL=host=h password=Canary", db, "not a URL"},
		{"CREDITMIRROR_DATABASE_URL=postgres://u:Can/ary@h/d", db, "%2F"},
		{"CREDITMIRROR_DATABASE_URL=postgres://u:1/Canary@h/d", db, "%2F"},
		{"CREDITMIRROR_DATABASE_URL=postgres://u:12#Canary@h/d", db, "%2F"},
		{"CREDITMIRROR_DATABASE_URL=postgres://u:%zzCanary@h/d", db, "percent-encoded"},
		{"CREDITMIRROR_DATABASE_URL=postgres://u:Can@ary@h/d", db, "%40"},
		{"CREDITMIRROR_DATABASE_URL=postgres://u:Canary@h:x/d", db, "host and port"},
		{"CREDITMIRROR_DATABASE_URL=postgres://u:Can ary@h/d", db, "white space"},
		{"CREDITMIRROR_DATABASE_URL=postgres://u:Canary@h/d?a=%zz", db, "behind the host"},
		// Redis
		{"CREDITMIRROR_REDIS_URL=", "", ""},
		{"CREDITMIRROR_REDIS_URL=embedded", "", ""},
		{"CREDITMIRROR_REDIS_URL=redis://:pw@h:6379/3", "", ""},
		{"CREDITMIRROR_REDIS_URL=rediss://u:pw@[::1]:6379", "", ""},
		{"CREDITMIRROR_REDIS_URL=redis+cluster://a:1,b:2,c/0", "", ""},
		{"CREDITMIRROR_REDIS_URL=rediss+sentinel://:pw@a:1,b/mymaster/2", "", ""},
		{"CREDITMIRROR_REDIS_URL= ", redis, "not a URL"},
		{"CREDITMIRROR_REDIS_URL=localhost:6379", redis, "not a URL"},
		{"CREDITMIRROR_REDIS_URL=http://h", redis, "not a Redis URL"},
		{"CREDITMIRROR_REDIS_URL=redissredis+cluster://h", redis, "not a Redis URL"},
		{"CREDITMIRROR_REDIS_URL=redis://", redis, "host and port"},
		{"CREDITMIRROR_REDIS_URL=redis://:Canary@", redis, "host and port"},
		{"CREDITMIRROR_REDIS_URL=redis://a,b", redis, "several hosts"},
		{"CREDITMIRROR_REDIS_URL=redis://h/Canary", redis, "not a number"},
		{"CREDITMIRROR_REDIS_URL=redis+cluster://a,,b", redis, "host and port"},
		{"CREDITMIRROR_REDIS_URL=redis+cluster://a/1", redis, "only number 0"},
		{"CREDITMIRROR_REDIS_URL=redis+sentinel://a:1,b", redis, "name of the master"},
		{"CREDITMIRROR_REDIS_URL=redis+sentinel://a/main/Canary", redis, "name of the master"},
		{"CREDITMIRROR_REDIS_URL=redis://:12/Canary@h", redis, "%2F"},
		{"CREDITMIRROR_REDIS_URL=redis://[::1]x", redis, "host and port"},
		{"CREDITMIRROR_REDIS_URL=redis://[h]:1", redis, "host and port"},
		{"CREDITMIRROR_REDIS_URL=redis://h:0", redis, "host and port"},
		{"CREDITMIRROR_INBOX=on", "", ""},
		{"CREDITMIRROR_INBOX=off ; CREDITMIRROR_REDIS_URL=redis://h", "", ""},
		{"CREDITMIRROR_INBOX=off", inbox, "lost with the process"},
		{"CREDITMIRROR_INBOX=no", inbox, "auto, on, off"},
		{"CREDITMIRROR_INBOX=", inbox, "empty"},
		{"CREDITMIRROR_INBOX=off ; CREDITMIRROR_REDIS_URL=x", redis, "not a URL"},
		// Listeners and keys
		{"CREDITMIRROR_API_ADDR=localhost:1", "", ""},
		{"CREDITMIRROR_API_ADDR=[::1]:0 ; CREDITMIRROR_OPS_ADDR=:0 ; CREDITMIRROR_WEBHOOK_ADDR=:0", "", ""},
		{"CREDITMIRROR_API_ADDR=[::ffff:127.0.0.1]:1", "", ""},
		{"CREDITMIRROR_API_ADDR=127.9.9.9:8080 ; CREDITMIRROR_WEBHOOK_ADDR=127.0.0.1:8080", "", ""},
		{"CREDITMIRROR_API_ADDR=:8081", api, "CREDITMIRROR_API_KEYS"},
		{"CREDITMIRROR_API_ADDR=10.0.0.1:8081", api, "127.0.0.1"},
		{"CREDITMIRROR_API_ADDR=mirror.example:8081", api, "without a key"},
		{"CREDITMIRROR_API_ADDR=:8081 ; CREDITMIRROR_API_KEYS=0123456789abcdefghij", "", ""},
		{"CREDITMIRROR_API_ADDR=:8081 ; CREDITMIRROR_API_KEYS=Canary", keys, "20 characters"},
		{"CREDITMIRROR_API_ADDR=8081", api, "not host:port"},
		{"CREDITMIRROR_API_ADDR=", api, "empty"},
		{"CREDITMIRROR_API_ADDR=localhost:http", api, "as port"},
		{"CREDITMIRROR_OPS_ADDR=localhost:65536", ops, "65535"},
		{"CREDITMIRROR_OPS_ADDR=a b:1", ops, "as host"},
		{"CREDITMIRROR_OPS_ADDR=[a:b]:1", ops, "as host"},
		{"CREDITMIRROR_OPS_ADDR=127.0.0.1:8081", ops, "same port as CREDITMIRROR_API_ADDR"},
		{"CREDITMIRROR_OPS_ADDR=127.0.0.1:8080", ops, "CREDITMIRROR_WEBHOOK_ADDR"},
		{"CREDITMIRROR_OPS_ADDR=localhost:8081", ops, "same port"},
		{"CREDITMIRROR_OPS_ADDR=0.0.0.0:08081", ops, "same port"},
		{"CREDITMIRROR_API_KEYS=", "", ""},
		{"CREDITMIRROR_API_KEYS=read:0123456789abcdefghij, write:0123456789abcdefghiX", "", ""},
		{"CREDITMIRROR_API_KEYS=read@50:0123456789abcdefghij, write@0.5:0123456789abcdefghiX,read:0123456789abcdefghij@50", "", ""},
		{"CREDITMIRROR_API_KEYS=read@0:0123456789Canary4567", keys, "0.01 to 1000000"},
		{"CREDITMIRROR_API_KEYS=read@:0123456789Canary4567", keys, "0.01 to 1000000"},
		{"CREDITMIRROR_API_KEYS=read@x:0123456789Canary4567", keys, "0.01 to 1000000"},
		{"CREDITMIRROR_API_KEYS=read@-1:0123456789Canary4567", keys, "0.01 to 1000000"},
		{"CREDITMIRROR_API_KEYS=write@NaN:0123456789Canary4567", keys, "0.01 to 1000000"},
		{"CREDITMIRROR_API_KEYS=write@Inf:0123456789Canary4567", keys, "0.01 to 1000000"},
		{"CREDITMIRROR_API_KEYS=write@1e300:0123456789Canary4567", keys, "0.01 to 1000000"},
		{"CREDITMIRROR_API_KEYS=@5:0123456789Canary4567", keys, "prefix"},
		{"CREDITMIRROR_API_KEYS=admin@5:0123456789Canary4567", keys, "prefix"},
		{"CREDITMIRROR_API_KEYS=read@5:0123456789Canary4567,read:0123456789Canary4567", keys, "different prefixes"},
		{"CREDITMIRROR_API_KEYS=write:Canary", keys, "openssl"},
		{"CREDITMIRROR_API_KEYS=admin:0123456789Canary4567", keys, "prefix"},
		{"CREDITMIRROR_API_KEYS=0123456789Canary4567,read:0123456789Canary4567", keys, "different prefixes"},
		{"CREDITMIRROR_API_KEYS=read:0123456789Canary4567,read:0123456789Canary4567", keys, "twice"},
		{"CREDITMIRROR_API_KEYS=write[billing-team]@5:0123456789abcdefghij,read[a.b_c]:0123456789abcdefghiX", "", ""},
		{"CREDITMIRROR_API_KEYS=write[]:0123456789Canary4567", keys, "names are letters"},
		{"CREDITMIRROR_API_KEYS=write[a b]:0123456789Canary4567", keys, "names are letters"},
		{"CREDITMIRROR_API_KEYS=write[a:0123456789Canary4567", keys, "prefix"},
		{"CREDITMIRROR_API_KEYS=read[a]:0123456789abcdefghij,read[a]:0123456789abcdefghiX", keys, "name of key number 2 twice"},
		{"CREDITMIRROR_API_KEYS=read[key-2]:0123456789abcdefghij,read:0123456789abcdefghiX", keys, "name of key number 2 twice"},
		{"CREDITMIRROR_API_KEYS=0123456789 Canary 4567", keys, "white space"},
		{"CREDITMIRROR_API_KEYS=0123456789Canary4567,", keys, "empty entry"},
		{"CREDITMIRROR_API_KEYS=read:", keys, "20 characters"},
		// Numbers, durations and words
		{"CREDITMIRROR_STRIPE_RPS=0.5 ; CREDITMIRROR_STRIPE_ENDPOINT_RPS=20", "", ""},
		{"CREDITMIRROR_STRIPE_RPS=0", "CREDITMIRROR_STRIPE_RPS", "above 0"},
		{"CREDITMIRROR_STRIPE_RPS=", "CREDITMIRROR_STRIPE_RPS", "80 live"},
		{"CREDITMIRROR_STRIPE_RPS=-1", "CREDITMIRROR_STRIPE_RPS", `"-1"`},
		{"CREDITMIRROR_STRIPE_RPS=NaN", "CREDITMIRROR_STRIPE_RPS", "NaN"},
		{"CREDITMIRROR_STRIPE_ENDPOINT_RPS=Inf", "CREDITMIRROR_STRIPE_ENDPOINT_RPS", "Inf"},
		{"CREDITMIRROR_WORKERS=1", "", ""},
		{"CREDITMIRROR_WORKERS=1025", "CREDITMIRROR_WORKERS", "from 1 to 1024"},
		{"CREDITMIRROR_WORKERS=1.5", "CREDITMIRROR_WORKERS", "whole number"},
		{"CREDITMIRROR_WORKERS=16 ", "CREDITMIRROR_WORKERS", `"16 "`},
		{"CREDITMIRROR_LEDGERS=balance,invoices", "CREDITMIRROR_LEDGERS", "balance, credits, or both"},
		{"CREDITMIRROR_LEDGERS=balance,", "CREDITMIRROR_LEDGERS", "empty entry"},
		{"CREDITMIRROR_INCOMPLETE=maybe", "CREDITMIRROR_INCOMPLETE", "serve, refuse"},
		{"CREDITMIRROR_MAX_ATTEMPTS=0", "CREDITMIRROR_MAX_ATTEMPTS", "from 1 to 100"},
		{"CREDITMIRROR_MAX_ATTEMPTS=101", "CREDITMIRROR_MAX_ATTEMPTS", "from 1 to 100"},
		{"CREDITMIRROR_EVENTS_INTERVAL=999ms", "CREDITMIRROR_EVENTS_INTERVAL", "at least 1s"},
		{"CREDITMIRROR_BALANCES_INTERVAL=9s", "CREDITMIRROR_BALANCES_INTERVAL", "at least 10s"},
		{"CREDITMIRROR_SCRUB_PERIOD=59s", "CREDITMIRROR_SCRUB_PERIOD", "at least 1m0s"},
		{"CREDITMIRROR_SCRUB_PERIOD=30d", "CREDITMIRROR_SCRUB_PERIOD", "720h for 30 days"},
		{"CREDITMIRROR_EVENTS_INTERVAL=60", "CREDITMIRROR_EVENTS_INTERVAL", "not a duration"},
		{"CREDITMIRROR_REPAIR=0", "", ""},
		{"CREDITMIRROR_REPAIR=yes", "CREDITMIRROR_REPAIR", "true or false"},
		{"CREDITMIRROR_CUSTOMER_FIELDS=all", "CREDITMIRROR_CUSTOMER_FIELDS", "credit, full"},
		{"CREDITMIRROR_LOG_LEVEL=INFO", "CREDITMIRROR_LOG_LEVEL", "debug, info, warn, error"},
		{"CREDITMIRROR_WORKERS=sk_live_Canary", "CREDITMIRROR_WORKERS", "not shown"},
		{"CREDITMIRROR_LOG_LEVEL=0123456789012345678901234567890123456789Canary", "CREDITMIRROR_LOG_LEVEL", "46 characters"},
		// Notifications
		{"CREDITMIRROR_NOTIFY_URL= ; CREDITMIRROR_NOTIFY_SECRET= ; CREDITMIRROR_NOTIFY_ALLOW=", "", ""},
		{notify + "=https://hooks.example.com/a/b?c=d ; " + sign + "=0123456789abcdefghijklmn", "", ""},
		{notify + "=https://10.1.2.3:8443 ; " + sign + "=0123456789abcdefghijklmn,1123456789abcdefghijklmn ; " + allow + "=10.0.0.0/8,fd00::/8,192.0.2.1,::1", "", ""},
		{notify + "=http://localhost:1/x ; " + sign + "=0123456789abcdefghijklmn ; " + allow + "=127.0.0.0/8", "", ""},
		{notify + "=http://[::1]:1/x ; " + sign + "=0123456789abcdefghijklmn ; " + allow + "=::1", "", ""},
		{notify + "=http://127.0.0.1:1/Canary ; " + sign + "=0123456789abcdefghijklmn", allow, "to 127.0.0.1"},
		{notify + "=http://127.0.0.1:1/Canary ; " + sign + "=0123456789abcdefghijklmn ; " + allow + "=10.0.0.0/8", allow, "own address"},
		{notify + "=http://Canary.example.com/ ; " + sign + "=0123456789abcdefghijklmn", notify, "unencrypted"},
		{notify + "=https://u:Canary@h/ ; " + sign + "=0123456789abcdefghijklmn", notify, "password"},
		{notify + "=https://Canary@h/ ; " + sign + "=0123456789abcdefghijklmn", notify, "user name"},
		{notify + "=https://h/#Canary ; " + sign + "=0123456789abcdefghijklmn", notify, "fragment"},
		{notify + "=https://h/Can ary ; " + sign + "=0123456789abcdefghijklmn", notify, "white space"},
		{notify + "=https:///Canary ; " + sign + "=0123456789abcdefghijklmn", notify, "host and port"},
		{notify + "=https://a,b/Canary ; " + sign + "=0123456789abcdefghijklmn", notify, "host and port"},
		{notify + "=https://h:0/Canary ; " + sign + "=0123456789abcdefghijklmn", notify, "host and port"},
		{notify + "=https://h/%zzCanary ; " + sign + "=0123456789abcdefghijklmn", notify, "behind the host"},
		{notify + "=ftp://h/Canary ; " + sign + "=0123456789abcdefghijklmn", notify, "not an https URL"},
		{notify + "=Canary ; " + sign + "=0123456789abcdefghijklmn", notify, "not a URL"},
		{notify + "=https://h/Canary", sign, "is required by"},
		{notify + "=https://h/ ; " + sign + "=Canary", sign, "openssl"},
		{notify + "=https://h/ ; " + sign + "=0123456789 Canary abcdefghijkl", sign, "white space"},
		{notify + "=https://h/ ; " + sign + "=sk_live_0123456789Canary89abcdef", sign, "Stripe key"},
		{notify + "=https://h/ ; " + sign + "=0123456789Canary89abcdef,", sign, "empty entry"},
		{notify + "=https://h/ ; " + sign + "=0123456789Canary89abcdef,0123456789Canary89abcdef", sign, "twice"},
		{notify + "=https://h/ ; " + sign + "=0123456789Canary89abcde0,0123456789Canary89abcde1,0123456789Canary89abcde2,0123456789Canary89abcde3,0123456789Canary89abcde4", sign, "more than 4"},
		{sign + "=0123456789Canary89abcdef", notify, "no notification is sent"},
		{allow + "=10.0.0.0/8", notify, "no notification is sent"},
		{notify + "=https://h/ ; " + sign + "=0123456789abcdefghijklmn ; " + allow + "=10.1.0.0/8", allow, "give 10.0.0.0/8"},
		{notify + "=https://h/ ; " + sign + "=0123456789abcdefghijklmn ; " + allow + "=0.0.0.0/0", allow, "most of all"},
		{notify + "=https://h/ ; " + sign + "=0123456789abcdefghijklmn ; " + allow + "=::/0", allow, "most of all"},
		{notify + "=https://h/ ; " + sign + "=0123456789abcdefghijklmn ; " + allow + "=10.0.0.0/33", allow, "not a network"},
		{notify + "=https://h/ ; " + sign + "=0123456789abcdefghijklmn ; " + allow + "=fe80::1%eth0", allow, "not a network"},
		{notify + "=https://h/ ; " + sign + "=0123456789abcdefghijklmn ; " + allow + "=::ffff:10.0.0.0/104", allow, "not a network"},
		{notify + "=https://h/ ; " + sign + "=0123456789abcdefghijklmn ; " + allow + "=private", allow, "not a network"},
		{notify + "=https://h/ ; " + sign + "=0123456789abcdefghijklmn ; " + allow + "=10.0.0.0/8,", allow, "empty entry"},
		// OpenTelemetry's
		{"OTEL_EXPORTER_OTLP_ENDPOINT= ; OTEL_EXPORTER_OTLP_HEADERS= ; OTEL_EXPORTER_OTLP_PROTOCOL= ; OTEL_SERVICE_NAME= ; OTEL_RESOURCE_ATTRIBUTES= ; OTEL_TRACES_SAMPLER= ; OTEL_TRACES_SAMPLER_ARG= ; OTEL_SDK_DISABLED= ; OTEL_TRACES_EXPORTER=", "", ""},
		{"OTEL_EXPORTER_OTLP_ENDPOINT=http://[::1]:4318 ; OTEL_TRACES_SAMPLER=always_off ; OTEL_TRACES_SAMPLER_ARG=0", "", ""},
		{"OTEL_EXPORTER_OTLP_PROTOCOL=grpc ; OTEL_METRICS_EXPORTER=prometheus", "", ""}, // for others: traces are off
		{collector + "=http://c ; OTEL_EXPORTER_OTLP_PROTOCOL=grpc ; OTEL_SDK_DISABLED=true", "", ""},
		{collector + "=http://c ; OTEL_EXPORTER_OTLP_PROTOCOL=grpc ; OTEL_TRACES_EXPORTER=none", "", ""},
		{collector + "=http://c ; OTEL_EXPORTER_OTLP_PROTOCOL=grpc ; OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=http/json", "", ""},
		{collector + "=http://c:4317 ; OTEL_EXPORTER_OTLP_PROTOCOL=grpc", "OTEL_EXPORTER_OTLP_PROTOCOL", "is grpc, but traces are sent by http/json alone"},
		{collector + "=http://c ; OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=http/protobuf", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json alone"},
		{"OTEL_EXPORTER_OTLP_PROTOCOL=smoke", "OTEL_EXPORTER_OTLP_PROTOCOL", "http/json, http/protobuf, grpc"},
		{collector + "=collector:4317", collector, "not a URL"},
		{collector + "=Canary", collector, "not a URL"},
		{collector + "=grpc://Canary", collector, "http or https"},
		{collector + "=http://u:Canary@c", collector, "password"},
		{collector + "=http://c?Canary", collector, "query"},
		{collector + "=http://c:99999/", collector, "host and port"},
		{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=http://c#Canary", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "fragment"},
		{"OTEL_EXPORTER_OTLP_ENDPOINT=http://collector.example.com:4318 ; OTEL_EXPORTER_OTLP_HEADERS=a=Canary", headers, "unencrypted"},
		{"OTEL_EXPORTER_OTLP_ENDPOINT=http://203.0.113.9:4318 ; OTEL_EXPORTER_OTLP_HEADERS=a=Canary", headers, "unencrypted"},
		{"OTEL_EXPORTER_OTLP_ENDPOINT=http://203.0.113.9:4318", "", ""},
		{"OTEL_EXPORTER_OTLP_ENDPOINT=http://203.0.113.9:4318 ; OTEL_EXPORTER_OTLP_HEADERS=a=Canary ; OTEL_SDK_DISABLED=true", "", ""},
		{"OTEL_EXPORTER_OTLP_ENDPOINT=http://collector.observability.svc:4318 ; OTEL_EXPORTER_OTLP_HEADERS=a=b", "", ""},
		{"OTEL_EXPORTER_OTLP_ENDPOINT=http://10.1.2.3:4318 ; OTEL_EXPORTER_OTLP_HEADERS=a=b", "", ""},
		{"OTEL_EXPORTER_OTLP_ENDPOINT=https://collector.example.com ; OTEL_EXPORTER_OTLP_HEADERS=a=b", "", ""},
		// Proxies, TLS and retention
		{"CREDITMIRROR_TRUSTED_PROXIES=10.0.0.0/8,fd00::1", "", ""},
		{"CREDITMIRROR_TRUSTED_PROXIES=0.0.0.0/0", "CREDITMIRROR_TRUSTED_PROXIES", "most of all"},
		{"CREDITMIRROR_TRUSTED_PROXIES=proxy", "CREDITMIRROR_TRUSTED_PROXIES", "not a network"},
		{"CREDITMIRROR_API_TLS_CERT=a.crt", "CREDITMIRROR_API_TLS_KEY", "required"},
		{"CREDITMIRROR_OPS_TLS_KEY=a.key", "CREDITMIRROR_OPS_TLS_CERT", "required"},
		{"CREDITMIRROR_WEBHOOK_TLS_CERT=a.crt ; CREDITMIRROR_WEBHOOK_TLS_KEY=-----BEGIN PRIVATE KEY-----Canary", "CREDITMIRROR_WEBHOOK_TLS_KEY", "path of a file"},
		{"CREDITMIRROR_AUDIT_RETENTION=24h", "CREDITMIRROR_AUDIT_RETENTION", "720h"},
		{"OTEL_EXPORTER_OTLP_HEADERS=Canary", headers, "name=value"},
		{"OTEL_EXPORTER_OTLP_HEADERS=a b=Canary", headers, "name=value"},
		{"OTEL_EXPORTER_OTLP_HEADERS=a=", headers, "no header can have"},
		{"OTEL_EXPORTER_OTLP_HEADERS=a=Canary%0D%0Ab: c", headers, "no header can have"},
		{"OTEL_EXPORTER_OTLP_HEADERS=a=Canary%zz", headers, "no header can have"},
		{"OTEL_EXPORTER_OTLP_HEADERS=a=Canary1,A=Canary2", headers, "same header twice"},
		{"OTEL_EXPORTER_OTLP_HEADERS=Content-Type=Canary", headers, "exporter sets itself"},
		{"OTEL_EXPORTER_OTLP_HEADERS=a=Canary,", headers, "empty entry"},
		{"OTEL_RESOURCE_ATTRIBUTES=Canary", "OTEL_RESOURCE_ATTRIBUTES", "key=value"},
		{"OTEL_RESOURCE_ATTRIBUTES=a=%zzCanary", "OTEL_RESOURCE_ATTRIBUTES", "key=value"},
		{"OTEL_RESOURCE_ATTRIBUTES=a=1,a=2", "OTEL_RESOURCE_ATTRIBUTES", "same attribute twice"},
		{"OTEL_TRACES_EXPORTER=console", "OTEL_TRACES_EXPORTER", "otlp, none"},
		{"OTEL_TRACES_SAMPLER=jaeger_remote", "OTEL_TRACES_SAMPLER", "parentbased_always_on"},
		{"OTEL_TRACES_SAMPLER_ARG=1.5", "OTEL_TRACES_SAMPLER_ARG", "from 0 to 1"},
		{"OTEL_TRACES_SAMPLER_ARG=NaN", "OTEL_TRACES_SAMPLER_ARG", "from 0 to 1"},
		{"OTEL_SDK_DISABLED=yes", "OTEL_SDK_DISABLED", "true or false"},
		// Unknown names
		{"CREDITMIRRORX=1 ; STRIPE_API_KEYS=1 ; creditmirror_workers=1", "", ""},
		{"CREDITMIRROR_WORKER=Canary", "CREDITMIRROR_WORKER", "did you mean CREDITMIRROR_WORKERS?"},
		{"CREDITMIRROR_DATABASE_ULR=Canary", "CREDITMIRROR_DATABASE_ULR", "did you mean CREDITMIRROR_DATABASE_URL?"},
		{"CREDITMIRROR_STRIPE_API_KEY=Canary", "CREDITMIRROR_STRIPE_API_KEY", "did you mean STRIPE_API_KEY?"},
		{"CREDITMIRROR_API_KEY_FILE=Canary", "CREDITMIRROR_API_KEY_FILE", "did you mean CREDITMIRROR_API_KEYS_FILE?"},
		{"CREDITMIRROR_WORKERS_FILE=Canary", "CREDITMIRROR_WORKERS_FILE", "only secrets"},
		{"CREDITMIRROR_BANANA=Canary", "CREDITMIRROR_BANANA", "remove it"},
		{"CREDITMIRROR_=Canary", "CREDITMIRROR_", "remove it"},
		{"CREDITMIRROR_B=1 ; CREDITMIRROR_A=1", "CREDITMIRROR_A CREDITMIRROR_B", "2 problems"},
		{"CREDITMIRROR_A\nB=Canary", `"CREDITMIRROR_A\nB"`, "1 problem "},
		{"CREDITMIRROR_REQUIRE_SERVICES=1", "", ""},
		{"CREDITMIRROR_API_PORT=tcp://10.0.0.1:1 ; KUBERNETES_SERVICE_HOST=10.0.0.2", "CREDITMIRROR_API_PORT", "enableServiceLinks: false"},
		{"CREDITMIRROR_API_PORT=1", "CREDITMIRROR_API_PORT", "unknown"},
		{"CREDITMIRROR_SERVICE_PORT_HTTP=1 ; CREDITMIRROR_PORT_80_TCP_ADDR=1 ; KUBERNETES_SERVICE_HOST=", "CREDITMIRROR_PORT_80_TCP_ADDR CREDITMIRROR_SERVICE_PORT_HTTP", "enableServiceLinks"},
	}
}

func TestEnvironments(t *testing.T) {
	t.Parallel()
	for _, row := range rows() {
		t.Run(row.environ, func(t *testing.T) {
			t.Parallel()
			cfg, err := Load(strings.Split(row.environ, " ; "))
			var want []string
			if row.want != "" {
				want = strings.Split(row.want, " ")
			}
			if diff := cmp.Diff(want, problemVars(t, err)); diff != "" {
				t.Fatalf("%v\n%s", err, diff)
			}
			if err == nil {
				if cfg.Workers == 0 {
					t.Fatal("an empty configuration")
				}
				return
			}
			if !strings.Contains(err.Error(), row.message) {
				t.Errorf("no %q in: %v", row.message, err)
			}
			if strings.Contains(err.Error(), "ary") {
				t.Errorf("shows the value: %v", err)
			}
			if lines := strings.Count(err.Error(), "\n"); lines != len(want) {
				t.Errorf("%d lines for %d problems: %q", lines, len(want), err)
			}
		})
	}
}
