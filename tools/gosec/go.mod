// gosec without what its own command brings along (clients of language models, 100 MB). A
// module of its own, so that users of the program do not inherit it. Run with: make gosec
module github.com/creditmirror/creditmirror/tools/gosec

go 1.26.0

require github.com/securego/gosec/v2 v2.30.0

require (
	github.com/ccojocar/zxcvbn-go v1.0.4 // indirect
	golang.org/x/mod v0.42.0 // indirect
	golang.org/x/sync v0.24.0 // indirect
	golang.org/x/tools v0.52.0 // indirect
)
