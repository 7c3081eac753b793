"""The published libraries as oracles: reads {"tokenizers": JSON} or {"pieces": [...]} and texts from
standard input, writes the ids of each text; with lists of ids in place of texts, writes their texts."""

import json
import struct
import sys


def varint(n):
    out = b""
    while n > 127:
        out += bytes([n & 127 | 128])
        n >>= 7
    return out + bytes([n])


def field(number, payload):
    """A field of bytes of a protocol buffer."""
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def number(number, value):
    return varint(number << 3) + varint(value)


def model(pieces, prefix):
    """A ModelProto of sentencepiece: pieces, a trainer's kind (BPE), and a normalizer (identity)."""
    proto = b""
    for text, score, kind in pieces:
        piece = field(1, text.encode()) + varint(2 << 3 | 5) + struct.pack("<f", score)
        proto += field(1, piece + number(3, kind))
    has_bytes = any(kind == 6 for _, _, kind in pieces)
    proto += field(2, number(3, 2) + number(35, int(has_bytes)))
    spec = field(1, b"identity") + number(3, int(prefix)) + number(4, 0) + number(5, 1)
    return proto + field(3, spec)


def main():
    asked = json.load(sys.stdin)
    if "pieces" in asked:
        import sentencepiece

        processor = sentencepiece.SentencePieceProcessor()
        processor.LoadFromSerializedProto(model(asked["pieces"], asked["prefix"]))
        ids = [processor.EncodeAsIds(text) for text in asked["texts"]]
    else:
        import tokenizers

        tokenizer = tokenizers.Tokenizer.from_str(asked["tokenizers"])
        if "ids" in asked:
            skip = not asked["special"]
            texts = tokenizer.decode_batch(asked["ids"], skip_special_tokens=skip)
            return json.dump(texts, sys.stdout)
        encoded = tokenizer.encode_batch(asked["texts"], add_special_tokens=False)
        ids = [one.ids for one in encoded]
    json.dump(ids, sys.stdout)


if __name__ == "__main__":
    main()
