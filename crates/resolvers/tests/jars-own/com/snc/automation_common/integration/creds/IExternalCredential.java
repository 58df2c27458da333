package com.snc.automation_common.integration.creds;

import java.util.Map;

/** A customer's own copy, which is not ours. */
public interface IExternalCredential {
    String OWN = "own interface";

    Map<String, String> resolve(Map<String, String> arguments);
}
