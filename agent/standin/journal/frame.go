package journal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
)

// A frame is one change on disk:
//
//	magic (4) | length of the payload (4, little endian) | CRC-32C of length and payload (4) | payload
//
// and a payload is
//
//	operation (1: put, 2: delete) | length of the key (uvarint) | key | value
//
// The magic lets a reader find the next whole frame behind a damaged one.
const (
	headerSize = 12
	// maxPayload bounds what a reader believes: no object of the API is larger.
	maxPayload = 4 << 20

	opPut    = 1
	opDelete = 2
)

func magic() []byte { return []byte{0xC1, 'L', 'P', 0xA7} }

// errFrame says that there is no whole frame at this place.
var errFrame = errors.New("damaged frame")

// appendFrame encodes a change behind buf. A nil value deletes the key.
func appendFrame(buf []byte, key string, value []byte) []byte {
	start := len(buf)
	buf = append(buf, magic()...)
	buf = append(buf, make([]byte, headerSize-len(magic()))...)
	op := byte(opPut)
	if value == nil {
		op = opDelete
	}
	buf = append(buf, op)
	buf = binary.AppendUvarint(buf, uint64(len(key)))
	buf = append(buf, key...)
	buf = append(buf, value...)
	header, payload := buf[start:start+headerSize], buf[start+headerSize:]
	binary.LittleEndian.PutUint32(header[4:], uint32(len(payload)))
	binary.LittleEndian.PutUint32(header[8:], checksum(header[4:8], payload))
	return buf
}

// payloadLength reads the header of a frame.
func payloadLength(header []byte) (int, error) {
	if len(header) < headerSize || !bytes.Equal(header[:4], magic()) {
		return 0, errFrame
	}
	n := binary.LittleEndian.Uint32(header[4:8])
	if n < 2 || n > maxPayload {
		return 0, errFrame
	}
	return int(n), nil
}

// parsePayload checks a payload against its header and takes it apart. The
// value shares memory with the payload; it is nil for a deletion and never nil
// for a put.
func parsePayload(header, payload []byte) (key string, value []byte, err error) {
	if len(header) < headerSize || len(payload) < 2 || checksum(header[4:8], payload) != binary.LittleEndian.Uint32(header[8:12]) {
		return "", nil, errFrame
	}
	size, n := binary.Uvarint(payload[1:])
	if n <= 0 || size > uint64(len(payload)-1-n) {
		return "", nil, errFrame
	}
	rest := payload[1+n:]
	key, value = string(rest[:size]), rest[size:]
	switch payload[0] {
	case opPut:
		return key, value, nil
	case opDelete:
		return key, nil, nil
	default:
		return "", nil, errFrame
	}
}

func checksum(length, payload []byte) uint32 {
	table := crc32.MakeTable(crc32.Castagnoli)
	return crc32.Update(crc32.Checksum(length, table), table, payload)
}
