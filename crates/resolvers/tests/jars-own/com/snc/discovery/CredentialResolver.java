package com.snc.discovery;

import com.service_now.mid.services.Config;
import com.snc.automation_common.integration.creds.IExternalCredential;
import helper.Helper;
import java.util.HashMap;
import java.util.Map;

public final class CredentialResolver implements IExternalCredential {
    @Override
    public Map<String, String> resolve(Map<String, String> arguments) {
        Map<String, String> result = new HashMap<>();
        result.put("user", OWN + ", " + Config.own());
        result.put("pswd", Helper.help());
        return result;
    }
}
