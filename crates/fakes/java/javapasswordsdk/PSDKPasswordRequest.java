package javapasswordsdk;

import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import javapasswordsdk.exceptions.PSDKException;

/** A request of the stand-in for CyberArk's SDK. For tests only. */
public class PSDKPasswordRequest {
    final Map<String, String> query = new LinkedHashMap<>();
    final Map<String, String> attributes = new LinkedHashMap<>();
    String appId = "";
    String explicitQuery;
    String reason = "";
    String port = "18923";
    int timeoutMillis = 30_000;
    List<String> requiredProperties = new ArrayList<>();

    public void setAppID(String value) throws PSDKException {
        appId = value;
    }

    public void setSafe(String value) throws PSDKException {
        query.put("Safe", value);
    }

    public void setFolder(String value) throws PSDKException {
        query.put("Folder", value);
    }

    public void setObject(String value) throws PSDKException {
        query.put("Object", value);
    }

    public void setUserName(String value) throws PSDKException {
        query.put("UserName", value);
    }

    public void setAddress(String value) throws PSDKException {
        query.put("Address", value);
    }

    public void setDatabase(String value) throws PSDKException {
        query.put("Database", value);
    }

    public void setPolicyID(String value) throws PSDKException {
        query.put("PolicyID", value);
    }

    public void setQuery(String value) throws PSDKException {
        explicitQuery = value;
    }

    public void setQueryFormat(PasswordQueryFormat value) throws PSDKException {
        attributes.put("QueryFormat", value.name());
    }

    public void setReason(String value) throws PSDKException {
        reason = value;
    }

    public void setConnectionPort(String value) throws PSDKException {
        port = value;
    }

    /** Seconds. */
    public void setConnectionTimeout(String value) throws PSDKException {
        timeoutMillis = Integer.parseInt(value) * 1000;
    }

    @SuppressWarnings("rawtypes")
    public void setRequiredProperties(ArrayList value) throws PSDKException {
        requiredProperties = new ArrayList<>();
        for (Object each : value) {
            requiredProperties.add(String.valueOf(each));
        }
    }

    public void setFailRequestOnPasswordChange(boolean value) throws PSDKException {
        attributes.put("FailRequestOnPasswordChange", Boolean.toString(value));
    }

    public void setAttribute(String name, String value) throws PSDKException {
        attributes.put(name, value);
    }
}
