package dev.midward.jarhost;

import java.io.DataInputStream;
import java.io.EOFException;
import java.io.IOException;
import java.io.OutputStream;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * One message on the pipe: u32 length of what follows, u8 type, u16 number of fields, then each field as two
 * length-prefixed UTF-8 strings (a value's length 0xFFFFFFFF is null). All numbers are big-endian.
 * The Rust side is crates/resolvers/src/frame.rs.
 */
final class Frame {
    static final int MAX_BYTES = 1 << 20;

    static final int CONFIGURE = 1;
    static final int READY = 2;
    static final int UNUSABLE = 3;
    static final int CALL = 4;
    static final int RESULT = 5;
    static final int FAILED = 6;
    static final int RECYCLE = 7;

    private static final int NULL = 0xFFFFFFFF;

    final int type;
    private final List<String> keys = new ArrayList<>();
    private final List<byte[]> values = new ArrayList<>();

    Frame(int type) {
        this.type = type;
    }

    Frame with(String key, String value) {
        return with(key, value == null ? null : value.getBytes(StandardCharsets.UTF_8));
    }

    /** Takes the array over: it is wiped when the frame is. */
    Frame with(String key, byte[] value) {
        keys.add(key);
        values.add(value);
        return this;
    }

    Map<String, String> texts() {
        Map<String, String> texts = new LinkedHashMap<>();
        for (int i = 0; i < keys.size(); i++) {
            byte[] value = values.get(i);
            texts.put(keys.get(i), value == null ? null : new String(value, StandardCharsets.UTF_8));
        }
        return texts;
    }

    void wipe() {
        for (byte[] value : values) {
            if (value != null) {
                Arrays.fill(value, (byte) 0);
            }
        }
    }

    /** Null at the end of the stream. */
    static Frame read(DataInputStream in) throws IOException {
        int length;
        try {
            length = in.readInt();
        } catch (EOFException end) {
            return null;
        }
        if (length < 3 || length > MAX_BYTES) {
            throw new IOException("frame length");
        }
        byte[] body = new byte[length];
        in.readFully(body);
        ByteBuffer buffer = ByteBuffer.wrap(body);
        Frame frame = new Frame(buffer.get() & 0xFF);
        int count = buffer.getShort() & 0xFFFF;
        for (int i = 0; i < count; i++) {
            byte[] key = bytes(buffer);
            if (key == null) {
                throw new IOException("null key");
            }
            frame.with(new String(key, StandardCharsets.UTF_8), bytes(buffer));
        }
        Arrays.fill(body, (byte) 0);
        return frame;
    }

    private static byte[] bytes(ByteBuffer buffer) throws IOException {
        int length = buffer.getInt();
        if (length == NULL) {
            return null;
        }
        if (length < 0 || length > buffer.remaining()) {
            throw new IOException("field length");
        }
        byte[] bytes = new byte[length];
        buffer.get(bytes);
        return bytes;
    }

    /** Writes the frame and wipes its values and the buffer that it was put together in. */
    void writeTo(OutputStream out) throws IOException {
        int length = 3;
        List<byte[]> names = new ArrayList<>();
        for (int i = 0; i < keys.size(); i++) {
            byte[] name = keys.get(i).getBytes(StandardCharsets.UTF_8);
            names.add(name);
            length += 8 + name.length + (values.get(i) == null ? 0 : values.get(i).length);
        }
        if (length > MAX_BYTES) {
            wipe();
            throw new IOException("frame too long");
        }
        ByteBuffer buffer = ByteBuffer.allocate(4 + length);
        try {
            buffer.putInt(length).put((byte) type).putShort((short) keys.size());
            for (int i = 0; i < keys.size(); i++) {
                buffer.putInt(names.get(i).length).put(names.get(i));
                byte[] value = values.get(i);
                if (value == null) {
                    buffer.putInt(NULL);
                } else {
                    buffer.putInt(value.length).put(value);
                }
            }
            synchronized (out) {
                out.write(buffer.array());
                out.flush();
            }
        } finally {
            Arrays.fill(buffer.array(), (byte) 0);
            wipe();
        }
    }
}
