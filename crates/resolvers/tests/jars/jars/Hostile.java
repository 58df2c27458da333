package jars;

import java.io.File;
import java.lang.reflect.InvocationTargetException;
import java.net.DatagramPacket;
import java.net.DatagramSocket;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.net.SocketAddress;
import java.nio.channels.SocketChannel;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.HashMap;
import java.util.Map;

/** Tries to reach what it should not. Its answer tells what came of it: "did" or the exception, never a failure. */
public class Hostile extends Jars.Base {
    public Map<String, String> resolve(Map<String, String> args) {
        StringBuilder outcomes = new StringBuilder();
        for (String target : String.valueOf(configuration.get("ext.cred.target")).split("\n")) {
            outcomes.append(outcomes.length() == 0 ? "" : "\n").append(outcome(args.get("id"), target));
        }
        Map<String, String> result = new HashMap<>();
        result.put("user", outcomes.toString());
        result.put("pswd", "x");
        return result;
    }

    private static String outcome(String what, String target) {
        try {
            return "did " + attempt(what, target);
        } catch (InvocationTargetException e) {
            return "refused " + e.getCause();
        } catch (Throwable e) {
            return "refused " + e;
        }
    }

    private static String attempt(String what, String target) throws Exception {
        InetAddress here = InetAddress.getByName("127.0.0.1");
        switch (what) {
            case "read":
                return new String(Files.readAllBytes(Path.of(target)));
            case "read-proc-mem":
                try (java.io.RandomAccessFile memory = new java.io.RandomAccessFile("/proc/" + target + "/mem", "r")) {
                    return "open";
                }
            case "list":
                return String.join(",", new File(target).list());
            case "write":
                Files.write(Path.of(target), new byte[] {1});
                return "write";
            case "write-own-jar":
                Files.write(Path.of("resolver.jar"), new byte[] {1});
                return "write";
            case "replace-own-jar":
                Files.delete(Path.of("resolver.jar"));
                return "delete";
            case "add-beside-own-jar":
                Files.createFile(Path.of("more.jar"));
                return "create";
            case "temporary":
                Path file = Files.createTempFile("hostile", ".tmp");
                Files.write(file, new byte[] {1});
                return file.toString();
            case "run-from-temporary":
                Path copy = Files.createTempFile("hostile", ".sh");
                Files.write(copy, "#!/bin/sh\necho ran\n".getBytes());
                copy.toFile().setExecutable(true);
                return run(copy.toString());
            case "tcp":
                try (Socket socket = new Socket()) {
                    socket.connect(new InetSocketAddress(here, Integer.parseInt(target)), 2000);
                    return "connect";
                }
            case "tcp-to":
                int colon = target.lastIndexOf(':');
                try (Socket socket = new Socket()) {
                    socket.connect(new InetSocketAddress(target.substring(0, colon), Integer.parseInt(target.substring(colon + 1))), 2000);
                    return new String(socket.getInputStream().readAllBytes());
                }
            case "shorten":
                // Java opens for writing to shorten; a shell does as well. Perl does not need to.
                return run("/usr/bin/perl", "-e", "use Fcntl; sysopen(F, $ARGV[0], O_RDONLY | O_TRUNC) and exit 0; print $!; exit 1", target);
            case "bind":
                try (ServerSocket socket = new ServerSocket(0, 1, here)) {
                    return "bind";
                }
            case "udp":
                try (DatagramSocket socket = new DatagramSocket()) {
                    socket.send(new DatagramPacket(new byte[] {7}, 1, here, Integer.parseInt(target)));
                    return "send";
                }
            case "unix":
                Object address = Class.forName("java.net.UnixDomainSocketAddress").getMethod("of", String.class).invoke(null, target);
                try (SocketChannel channel = SocketChannel.open((SocketAddress) address)) {
                    return "connect";
                }
            case "run":
                return run(target.split(" "));
            case "shell":
                return run("/bin/sh", "-c", target);
            case "stop-child":
                Process child = new ProcessBuilder("/bin/sleep", "600").start();
                child.destroyForcibly();
                return String.valueOf(child.waitFor());
            case "attach":
                return String.valueOf(Class.forName("com.sun.tools.attach.VirtualMachine").getMethod("attach", String.class).invoke(null, target));
            default:
                throw new IllegalArgumentException(what);
        }
    }

    private static String run(String... words) throws Exception {
        Process process = new ProcessBuilder(words).redirectErrorStream(true).start();
        String output = new String(process.getInputStream().readAllBytes());
        return process.waitFor() + " " + output.trim();
    }

    /** Another JVM of the same user, which anybody may attach to. Ends with its standard input. */
    public static class Victim {
        public static void main(String[] arguments) throws Exception {
            System.out.println("up");
            System.in.read();
        }
    }
}
