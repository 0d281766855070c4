package payload

import _ "embed"

// The embedded archive and its checksums. If the compiler finds no matching
// files, build them first: scripts/payload/build amd64 (make does it by itself).
var (
	//go:embed payload_linux_amd64.tar.zst
	archiveData string
	//go:embed payload_linux_amd64.sha256
	archiveSums string
)
