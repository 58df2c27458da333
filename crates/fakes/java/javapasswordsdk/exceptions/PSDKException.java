package javapasswordsdk.exceptions;

/** The stand-in's failure: the message begins with the vault's code, as with the real one. */
public class PSDKException extends Exception {
    private static final long serialVersionUID = 1L;

    public PSDKException(String message) {
        super(message);
    }

    public String getReason() {
        return getMessage();
    }
}
