package javapasswordsdk;

import java.util.Arrays;
import java.util.Map;
import javapasswordsdk.exceptions.PSDKException;

/** An answer of the stand-in for CyberArk's SDK. For tests only. */
public class PSDKPassword {
    private final Map<String, String> properties;
    private final char[] content;

    PSDKPassword(Map<String, String> properties) {
        String password = properties.remove("Password");
        this.properties = properties;
        this.content = password == null ? new char[0] : password.toCharArray();
    }

    public String getContent() {
        return new String(content);
    }

    public char[] getSecureContent() {
        return content.clone();
    }

    public String getUserName() throws PSDKException {
        return properties.getOrDefault("PassProps.UserName", "");
    }

    public String getAddress() throws PSDKException {
        return properties.getOrDefault("PassProps.Address", "");
    }

    public String getAttribute(String name) throws PSDKException {
        String value = properties.get(name);
        if (value == null) {
            throw new PSDKException("APPAP081E Request message content is invalid");
        }
        return value;
    }

    public void dispose() {
        Arrays.fill(content, '\0');
    }
}
