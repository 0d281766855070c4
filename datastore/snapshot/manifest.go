package snapshot

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

// ErrDamaged is the cause when a snapshot is not what it was when it was saved,
// or never was one.
var ErrDamaged = errors.New("the snapshot is damaged")

// Reason is why a snapshot was taken. Retention works on one reason at a time.
type Reason string

// Reasons for snapshots.
const (
	Scheduled Reason = "scheduled"
	Manual    Reason = "manual"
	Upgrade   Reason = "upgrade" // before the first start of another version
)

// Manifest is what a snapshot says about itself.
type Manifest struct {
	Format int `json:"format"`
	// Name is the file's name when it was saved.
	Name    string    `json:"name"`
	Node    string    `json:"node"`
	Created time.Time `json:"created"`
	Reason  Reason    `json:"reason"`
	// Database is when the database was made, in seconds of Unix time: it
	// tells one database from another.
	Database int64  `json:"database"`
	Revision int64  `json:"revision"`
	Keys     int64  `json:"keys"`
	Size     int64  `json:"size"`   // of the database, not compressed
	SHA256   string `json:"sha256"` // of the database
	Limpet   string `json:"limpet"` // the version that saved it
}

const (
	// format is the version of the manifest. Fields may be added without a
	// change of it.
	format = 1
	// frameMagic is one of the 16 numbers that begin a skippable frame (RFC
	// 8878, 3.1.2). The low digit is free to choose.
	frameMagic  = 0x184D2A57
	maxManifest = 4 << 10
)

// frame is the skippable frame: 8 bytes that zstd wants, a line of JSON and
// a line with its sha256, so that `head -n 1` shows it.
func (m Manifest) frame() ([]byte, error) {
	text, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(text)
	body := fmt.Appendf(text, "\n%x\n", sum)
	if len(body) > maxManifest {
		return nil, fmt.Errorf("the manifest has %d bytes, more than %d", len(body), maxManifest)
	}
	frame := binary.LittleEndian.AppendUint32(nil, frameMagic)
	frame = binary.LittleEndian.AppendUint32(frame, uint32(len(body)))
	return append(frame, body...), nil
}

// readManifest reads the frame and nothing behind it.
func readManifest(r io.Reader) (Manifest, error) {
	var head [8]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return Manifest{}, damaged("it is too short to have a manifest", err)
	}
	size := binary.LittleEndian.Uint32(head[4:])
	if binary.LittleEndian.Uint32(head[:]) != frameMagic || size > maxManifest {
		return Manifest{}, fmt.Errorf("%w: it does not begin with a manifest, so limpet did not write it", ErrDamaged)
	}
	body := make([]byte, size)
	if _, err := io.ReadFull(r, body); err != nil {
		return Manifest{}, damaged("the manifest is cut off", err)
	}
	text, sum, _ := bytes.Cut(body, []byte("\n"))
	if want := sha256.Sum256(text); string(sum) != hex.EncodeToString(want[:])+"\n" {
		return Manifest{}, fmt.Errorf("%w: the manifest does not match its checksum", ErrDamaged)
	}
	var m Manifest
	if err := json.Unmarshal(text, &m); err != nil {
		return Manifest{}, fmt.Errorf("%w: manifest: %w", ErrDamaged, err)
	}
	if m.Format != format {
		return Manifest{}, fmt.Errorf("the snapshot has format %d, and this version of limpet (format %d) cannot read it: use the version that wrote it, or a later one", m.Format, format)
	}
	if m.Size < 0 || m.Revision < 0 || m.Keys < 0 {
		return Manifest{}, fmt.Errorf("%w: the manifest has negative numbers", ErrDamaged)
	}
	return m, nil
}

// damaged keeps an error of the disk apart from a file that ends too early.
func damaged(what string, err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: %s", ErrDamaged, what)
	}
	return err
}
