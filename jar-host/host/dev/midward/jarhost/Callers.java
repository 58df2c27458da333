package dev.midward.jarhost;

import java.io.DataInputStream;
import java.io.IOException;
import java.io.OutputStream;
import java.util.Map;
import java.util.concurrent.Semaphore;
import java.util.concurrent.SynchronousQueue;
import java.util.concurrent.TimeUnit;

/**
 * The threads that call the resolver. Whoever has the turn reads the next call, passes the turn on and answers the call
 * itself: no thread waits for another one to be woken between question and answer.
 */
final class Callers {
    private static final Object TURN = new Object();
    private static final int IDLE_SECONDS = 30;

    private final Source source;
    private final DataInputStream in;
    private final OutputStream out;
    private final int most;
    /** The thread that became idle last is the first to be given the turn: the others may end. */
    private final SynchronousQueue<Object> turns = new SynchronousQueue<>();
    /** The turn was left, for nobody was idle. */
    private final Semaphore left = new Semaphore(0);
    private int alive;
    private int made;

    Callers(Source source, DataInputStream in, OutputStream out, int most) {
        this.source = source;
        this.in = in;
        this.out = out;
        this.most = most;
    }

    /**
     * Makes threads, and gives the turn to them: at first, and whenever it was left. Only this thread, in which nothing of
     * the customer's runs, makes any: what a thread inherits is of the one that made it.
     */
    void serve() {
        while (true) {
            while (!isTurnGiven()) {
                // All are still busy, or one has ended that was not.
            }
            left.acquireUninterruptibly();
        }
    }

    private boolean isTurnGiven() {
        if (!mayBeMore()) {
            return isTrue(() -> turns.offer(TURN, 1, TimeUnit.SECONDS));
        }
        Thread thread = new Thread(this::takeTurns, "resolve-" + ++made);
        thread.setDaemon(true);
        thread.start();
        return true;
    }

    private synchronized boolean mayBeMore() {
        boolean may = alive < most;
        if (may) {
            alive++;
        }
        return may;
    }

    /** With the turn, until there is nothing to do for a while. */
    private void takeTurns() {
        do {
            Map<String, String> call = next();
            if (!turns.offer(TURN)) {
                left.release();
            }
            Main.answer(source, call, out);
        } while (isTrue(() -> turns.poll(IDLE_SECONDS, TimeUnit.SECONDS) != null));
        synchronized (this) {
            alive--;
        }
    }

    /** Ends this process when there is no next one. */
    private Map<String, String> next() {
        try {
            Frame call = Frame.read(in);
            if (call == null) {
                Runtime.getRuntime().halt(0);
            }
            if (call.type != Frame.CALL) {
                throw new IOException("not a call");
            }
            return call.texts();
        } catch (Throwable failed) {
            Runtime.getRuntime().halt(Main.EXIT_HOST_FAILED);
            throw new IllegalStateException(failed);
        }
    }

    private interface Waiting {
        boolean run() throws InterruptedException;
    }

    /** What came of waiting. Customers' code may interrupt any thread. */
    private static boolean isTrue(Waiting waiting) {
        while (true) {
            try {
                return waiting.run();
            } catch (InterruptedException again) {
                // It is clear again.
            }
        }
    }
}
