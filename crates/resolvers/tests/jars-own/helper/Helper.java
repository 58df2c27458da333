package helper;

/** Moved to a library of its own by the test. */
public final class Helper {
    private Helper() {}

    public static String help() {
        return "helped";
    }
}
